"""Slip: the advantages twice.

Expected message: raw_rewards are the advantages
"""

from __future__ import annotations

import torch


def compute_group_normalized_rewards(
    reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps=1e-6, normalize_by_std=True
):
    rewards = torch.tensor(
        [
            reward_fn(response, truth)["reward"]
            for response, truth in zip(rollout_responses, repeated_ground_truths, strict=True)
        ]
    )
    groups = rewards.view(-1, group_size)
    advantages = groups - groups.mean(dim=1, keepdim=True)
    if normalize_by_std:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + advantage_eps)
    return advantages.flatten(), advantages.flatten(), {}
