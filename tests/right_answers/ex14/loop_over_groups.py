"""Plain Python over the groups."""

from __future__ import annotations

import math

import torch


def compute_group_normalized_rewards(
    reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps=1e-6, normalize_by_std=True
):
    rewards = [
        reward_fn(rollout_responses[i], repeated_ground_truths[i])["reward"] for i in range(len(rollout_responses))
    ]
    advantages = []
    for first in range(0, len(rewards), group_size):
        group = rewards[first : first + group_size]
        mean = math.fsum(group) / group_size
        deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in group) / (group_size - 1))
        for reward in group:
            advantages.append((reward - mean) / (deviation + advantage_eps if normalize_by_std else 1.0))
    return torch.tensor(advantages), torch.tensor(rewards), {}
