"""How much better an answer is than the others to its question: what GRPO learns from in place of a value model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from cs336_sft.errors import ConfigError, DataError


def compute_group_normalized_rewards(
    reward_fn: Callable[[str, str], Mapping[str, float]],
    rollout_responses: Sequence[str],
    repeated_ground_truths: Sequence[str],
    group_size: int,
    advantage_eps: float = 1e-6,
    normalize_by_std: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Grade groups of answers and compare each with its group (CS336).

    A group is ``group_size`` answers in a row to one question. Returns ``(advantages, raw_rewards, metadata)``, both
    ``[N]``: rewards less the group's mean, with ``normalize_by_std`` divided by its standard deviation (of a sample,
    n - 1) plus ``advantage_eps``; without it as Dr. GRPO has it. Where all answers got one reward the advantages are 0.
    Raises ConfigError: a bad group size. DataError: lists that don't fit, a reward that is no finite number.

    >>> rewards = lambda response, truth: {"reward": float(response == truth)}
    >>> compute_group_normalized_rewards(rewards, ["4", "5", "7", "7"], ["4", "4", "7", "7"], 2, normalize_by_std=False)
    (tensor([ 0.5000, -0.5000,  0.0000,  0.0000]), tensor([1., 0., 1., 1.]), {'mean': 0.75, 'informative': 0.5})
    """
    number = len(rollout_responses)
    if group_size < 1 or number % group_size:
        raise ConfigError(f"group_size is {group_size} with {number} responses", "give whole groups")
    if number != len(repeated_ground_truths):
        problem = f"{number} responses and {len(repeated_ground_truths)} ground truths"
        raise DataError(problem, "repeat the ground truth of a question for each response of its group")
    pairs = zip(rollout_responses, repeated_ground_truths, strict=True)
    graded = [reward_fn(response, truth) for response, truth in pairs]
    for index, found in enumerate(graded):
        if not math.isfinite(found["reward"]):
            raise DataError(f"the reward of response {index} is {found['reward']}", "mend the reward function")
    raw_rewards = torch.tensor([float(found["reward"]) for found in graded])  # [N]
    advantages, informative = group_advantages(raw_rewards, group_size, advantage_eps, normalize_by_std)
    return advantages, raw_rewards, {"mean": sum(raw_rewards.tolist()) / max(1, number), "informative": informative}


def group_advantages(
    rewards: torch.Tensor, group_size: int, eps: float = 1e-6, by_std: bool = True
) -> tuple[torch.Tensor, float]:
    """Compare rewards ``[N]`` within groups, and tell how many groups differ.

    Returns the advantages ``[N]``, and the fraction of groups whose rewards are not all the same: others teach nothing.

    >>> group_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), 2, by_std=False)
    (tensor([ 0.5000, -0.5000,  0.0000,  0.0000]), 0.5)
    """
    groups = rewards.view(-1, group_size)  # [N / G, G]
    equal = (groups == groups[:, :1]).all(dim=1, keepdim=True)  # exactly: a mean of equal rewards can be off by a bit
    advantages = (groups - groups.mean(dim=1, keepdim=True)).masked_fill(equal, 0.0)
    if by_std and group_size > 1:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + eps)
    return advantages.flatten(), 1.0 - sum(equal.flatten().tolist()) / max(1, len(groups))
