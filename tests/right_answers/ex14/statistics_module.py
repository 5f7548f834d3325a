"""The statistics module, in double precision."""

from __future__ import annotations

from statistics import mean, stdev

import torch


def compute_group_normalized_rewards(
    reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps=1e-6, normalize_by_std=True
):
    graded = list(map(reward_fn, rollout_responses, repeated_ground_truths))
    rewards = [found["reward"] for found in graded]
    groups = [rewards[i : i + group_size] for i in range(0, len(rewards), group_size)]
    scales = [stdev(group) + advantage_eps if normalize_by_std else 1.0 for group in groups]
    advantages = [(r - mean(group)) / scale for group, scale in zip(groups, scales, strict=True) for r in group]
    as_tensor = lambda values: torch.tensor(values, dtype=torch.float64)  # noqa: E731
    return as_tensor(advantages), as_tensor(rewards), {"max": max(rewards), "min": min(rewards)}
