"""NumPy, then tensors."""

from __future__ import annotations

import numpy as np
import torch


def compute_group_normalized_rewards(
    reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps=1e-6, normalize_by_std=True
):
    graded = [reward_fn(*pair)["reward"] for pair in zip(rollout_responses, repeated_ground_truths, strict=True)]
    rewards = np.array(graded).reshape(-1, group_size)
    centred = rewards - rewards.mean(axis=1)[:, None]
    scale = rewards.std(axis=1, ddof=1)[:, None] + advantage_eps if normalize_by_std else 1.0
    return torch.from_numpy((centred / scale).ravel()), torch.from_numpy(rewards.ravel()), {"groups": len(rewards)}
