"""Flat tensors, means repeated."""

from __future__ import annotations

import torch


def compute_group_normalized_rewards(
    reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps=1e-6, normalize_by_std=True
):
    rewards = torch.empty(len(rollout_responses))
    for i, (response, truth) in enumerate(zip(rollout_responses, repeated_ground_truths, strict=True)):
        rewards[i] = reward_fn(response, truth)["reward"]
    means = torch.stack([part.mean() for part in rewards.split(group_size)]).repeat_interleave(group_size)
    advantages = rewards - means
    if normalize_by_std:
        squares = torch.stack([part.square().sum() for part in advantages.split(group_size)])
        advantages = advantages / ((squares / (group_size - 1)).sqrt().repeat_interleave(group_size) + advantage_eps)
    return advantages, rewards, {"mean": rewards.mean()}
