"""ex14: rewards compared within groups of answers to one question."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.grpo.advantages import compute_group_normalized_rewards


def _grade(response: str, truth: str) -> dict[str, float]:
    # Three numbers that differ, and other ones with the arguments swapped.
    return {"format_reward": 1.0, "answer_reward": abs(float(response)), "reward": float(response) - float(truth) / 2}


def _case(rewards: Sequence[float], size: int, by_std: bool, eps: float = 1e-6, why: str = "", truth: int = 0) -> Case:
    responses = [str(reward + truth / 2) for reward in rewards]
    shown = " ".join(f"{reward:g}" for reward in rewards)
    label = f"rewards {shown} in groups of {size}, advantage_eps={eps:g}, normalize_by_std={by_std}"
    given = () if (eps, by_std) == (1e-6, True) else (eps, by_std)  # else the defaults
    return Case((_grade, responses, [str(truth)] * len(rewards), size, *given), label=label, why=why)


def _random_case(seed: int) -> Case:
    """Vary groups, their size, rewards (maybe equal), truth, eps, normalization."""
    draw = random.Random(seed)
    size, top = draw.choice([2, 3, 4, 8]), draw.choice([0, 1, 9])  # quarters: their sums and means are exact
    rewards = [draw.randint(-top, top) / 4 for _ in range(size * draw.choice([1, 2, 3, 5]))]
    return _case(rewards, size, seed % 3 > 0, draw.choice([1e-6, 0.1, 1.0]), truth=draw.choice([0, 3, 8]))


CASES = [_case(**row) for row in read_asset("cases")["ex14"]] + [_random_case(seed) for seed in range(30)]


def _less(g: torch.Tensor, dim: int = 1) -> torch.Tensor:
    return g - g.mean(dim, keepdim=True)


def _std(g: torch.Tensor, dim: int = 1, correction: int = 1) -> torch.Tensor:
    return g.std(dim, correction=correction, keepdim=True)


def _formula(
    rule: Callable[..., torch.Tensor] = lambda g, s, e: _less(g) / (_std(g) + e),
    plain: Callable[[torch.Tensor], torch.Tensor] = _less,
    grade: Callable[..., float] = lambda fn, response, truth: fn(response, truth)["reward"],
    raw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda r, advantages: r,
) -> Callable[..., Any]:
    """Make a slip: ``rule`` divides by the deviation, ``plain`` does not."""

    def wrong(fn: Any, responses: Any, truths: Any, size: int, eps: float = 1e-6, by_std: bool = True) -> Any:
        rewards = torch.tensor([grade(fn, *pair) for pair in zip(responses, truths, strict=True)])
        groups = rewards.view(-1, size)
        advantages = (rule(groups, size, eps) if by_std else plain(groups)).flatten()
        return advantages, raw(rewards, advantages), {}

    return wrong


SLIPS = slips(
    "ex14",
    {
        "sign": _formula(lambda g, s, e: -_less(g) / (_std(g) + e), lambda g: -_less(g)),
        "no-mean": _formula(lambda g, s, e: g / (_std(g) + e), lambda g: g),
        "whole-batch": _formula(lambda g, s, e: (g - g.mean()) / (g.std() + e), lambda g: g - g.mean()),
        "whole-mean": _formula(lambda g, s, e: (g - g.mean()) / (_std(g) + e), lambda g: g - g.mean()),
        "whole-deviation": _formula(lambda g, s, e: _less(g) / (g.std() + e)),
        "wrong-axis": _formula(
            lambda g, s, e: _less(g.reshape(s, -1), 0) / (_std(g.reshape(s, -1), 0) + e),
            lambda g: _less(g.reshape(g.shape[1], -1), 0),
        ),
        "population": _formula(lambda g, s, e: _less(g) / (_std(g, correction=0) + e)),
        "no-eps": _formula(lambda g, s, e: _less(g) / _std(g)),
        "eps-in-root": _formula(lambda g, s, e: _less(g) / (g.var(1, keepdim=True) + e).sqrt()),
        "eps-clamped": _formula(lambda g, s, e: _less(g) / _std(g).clamp(min=e)),
        "variance": _formula(lambda g, s, e: _less(g) / (g.var(1, keepdim=True) + e)),
        "never-divided": _formula(lambda g, s, e: _less(g)),
        "always-divided": lambda f, r, t, s, e=1e-6, std=True: _formula()(f, r, t, s, e, True),
        "leave-one-out": _formula(
            lambda g, s, e: _less(g) * s / (s - 1) / (_std(g) + e),
            lambda g: _less(g) * g.shape[1] / (g.shape[1] - 1),
        ),
        "answer-reward": _formula(grade=lambda fn, response, truth: fn(response, truth)["answer_reward"]),
        "swapped": _formula(grade=lambda fn, response, truth: fn(truth, response)["reward"]),
        "raw-replaced": _formula(raw=lambda rewards, advantages: advantages),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not isinstance(value[2], dict):
        return Misshapen("returns something else than (advantages, raw_rewards, metadata) with a dict for metadata")
    if not all(isinstance(part, torch.Tensor) for part in value[:2]):
        return Misshapen("advantages and raw_rewards are no tensors")
    return {"advantages": value[0], "raw_rewards": value[1]}


CHECKS = (Check("compute_group_normalized_rewards", CASES, compute_group_normalized_rewards, SLIPS, view=_view),)
