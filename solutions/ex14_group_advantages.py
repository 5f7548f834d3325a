"""ex14, solved plainly. The task and its contract are in exercises/ex14_group_advantages.py."""

from __future__ import annotations

from collections.abc import Callable

import torch


def compute_group_normalized_rewards(
    reward_fn: Callable[[str, str], dict[str, float]],
    rollout_responses: list[str],
    repeated_ground_truths: list[str],
    group_size: int,
    advantage_eps: float = 1e-6,
    normalize_by_std: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Advantages, rewards, and what you want to log."""
    pairs = zip(rollout_responses, repeated_ground_truths, strict=True)
    raw_rewards = torch.tensor([float(reward_fn(response, truth)["reward"]) for response, truth in pairs])
    groups = raw_rewards.view(-1, group_size)  # [N / G, G]
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if normalize_by_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + advantage_eps)
    return advantages.flatten(), raw_rewards, {"mean": float(raw_rewards.mean())}
