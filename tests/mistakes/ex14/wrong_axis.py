"""Slip: a group is a column.

Expected message: the groups run the wrong way
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
    groups = rewards.view(group_size, -1)
    advantages = groups - groups.mean(dim=0, keepdim=True)
    if normalize_by_std:
        advantages = advantages / (groups.std(dim=0, keepdim=True) + advantage_eps)
    return advantages.flatten(), rewards, {}
