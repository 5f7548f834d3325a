"""ex14. Rewards compared within groups of answers to one question.

Topic: policy gradients. Difficulty 2 of 5, about 20 minutes. Taught in notebook 09_expert_iteration.
Check it with `cs336-sft check ex14`; stuck? `cs336-sft hint ex14`.

compute_group_normalized_rewards(
    reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps=1e-6, normalize_by_std=True)
    reward_fn               (response, ground truth) -> a dict; its "reward" counts, any number
    rollout_responses       N texts; a group is group_size answers in a row to one question
    repeated_ground_truths  N texts, the question's ground truth for each of its answers
    group_size              G, at least 2; N is a multiple of it
    advantage_eps           is added to the standard deviation
    normalize_by_std        False: rewards less the group's mean, without a division
    returns                 (advantages, raw_rewards, metadata): tensors [N], and a dict of your choice (maybe empty)

    advantage = (reward - mean of its group) / (standard deviation of its group + advantage_eps)

The standard deviation is a sample's: it divides by G - 1, as torch.std does. In a group of equal rewards all
advantages are 0.

By hand, two groups of 4:
    rewards  1 0 0 0     mean 0.25, deviation 0.5      advantages   1.5 -0.5 -0.5 -0.5
             1 1 0 1     mean 0.75, deviation 0.5                   0.5  0.5 -1.5  0.5
"""

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
    raise NotImplementedError
