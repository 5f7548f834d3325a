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
    (tensor([ 0.5000, -0.5000,  0.0000,  0.0000]), tensor([1., 0., 1., 1.]), {'mean': 0.75, ...
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
    groups = raw_rewards.view(-1, group_size)  # [N / G, G]
    advantages = groups - groups.mean(dim=1, keepdim=True)
    equal = (groups == groups[:, :1]).all(dim=1, keepdim=True)  # exactly: a mean of equal rewards can be off by a bit
    advantages = advantages.masked_fill(equal, 0.0)
    if normalize_by_std and group_size > 1:
        advantages = advantages / (groups.std(dim=1, keepdim=True) + advantage_eps)
    shares = {name: sum(found.get(name, 0.0) for found in graded) / max(1, number) for name in ("format_reward",)}
    metadata = {
        "mean": raw_rewards.mean().item() if number else 0.0,
        **shares,
        "informative_groups": (~equal).float().mean().item() if number else 0.0,  # the others teach nothing
    }
    return advantages.flatten(), raw_rewards, metadata
