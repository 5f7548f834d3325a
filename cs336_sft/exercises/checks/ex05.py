"""ex05: entropy of the next-token distribution."""

from __future__ import annotations

import math
import random
from typing import Any

import torch

from cs336_sft.exercises.compare import Check, slips, value_and_grads
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.sandbox.perform import Case
from cs336_sft.logprobs import compute_entropy

_INF = float("-inf")


def _random_case(seed: int) -> Case:
    """Vary shape, size, dtype, ties, forbidden tokens, gradient all together."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = draw.choice([(4,), (1, 3), (3, 1), (2, 1, 5), (2, 3, 3), (1, 1, 1), (2, 2, 2, 4), (1, 60)])
    logits = torch.randn(shape, generator=generator, dtype=draw.choice([torch.float32, torch.float64]))
    logits = logits * draw.choice([0.01, 1, 30, 1e3]) + draw.choice([-60, 0, 700]) - 1e35 * (seed % 6 == 1)
    if seed % 3 == 0:
        logits = logits.round()
    if seed % 2 and shape[-1] > 2:
        logits[..., -1] = _INF
    label = f"random logits of shape {list(shape)}" + ", the last one forbidden (-inf)" * (_INF in logits)
    backward = "" if seed % 4 < 2 else None
    return Case((logits.requires_grad_(backward is not None),), label=label, backward=backward)


def _case(logits: Any, gradient: bool = False, **texts: str) -> Case:
    return Case((torch.tensor(logits, requires_grad=gradient),), backward="" if gradient else None, **texts)


_EPSILON = "an epsilon inside the logarithm shifts the entropy of many small probabilities"
_MANY = torch.linspace(-2, 2, 3000, dtype=torch.float64).reshape(1, 3000)
CASES = [
    *(_case(**row) for row in read_asset("cases")["ex05"]),
    _case([100.0] + [0.0] * 5000, label="5001 logits, one of them 100, the others 0"),
    *(_random_case(seed) for seed in range(20)),
    Case((_MANY,), label="3000 float64 logits", why=_EPSILON, tolerance=1e-6),
]


def _p(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    return torch.softmax(x, dim=dim)


def _right(x: torch.Tensor, dim: int = -1) -> torch.Tensor:
    log_p = torch.log_softmax(x, dim=dim)
    return -(log_p.exp() * log_p.masked_fill(log_p == _INF, 0.0)).sum(dim=dim)


def _exp_unstable(x: torch.Tensor) -> torch.Tensor:
    p = x.exp() / x.exp().sum(dim=-1, keepdim=True)
    return -(p * p.log()).sum(dim=-1)


SLIPS = slips(
    "ex05",
    {
        "base-2": lambda x: _right(x) / math.log(2),
        "sign": lambda x: -_right(x),
        "softmax-dim-0": lambda x: -(_p(x, 0) * _p(x, 0).log()).sum(dim=-1),
        "softmax-dim-1": lambda x: -(_p(x, 1) * _p(x, 1).log()).sum(dim=-1),
        "mean-over-vocabulary": lambda x: _right(x) / x.shape[-1],
        "scalar": lambda x: _right(x).sum(),
        "logits-as-probabilities": lambda x: -(x * x.log()).sum(dim=-1),
        "clamped": lambda x: _right(x.clamp(-50, 50)),
        "forbidden-is-0": lambda x: _right(x.masked_fill(x == _INF, 0.0)),
        "forbidden-is-small": lambda x: _right(x.masked_fill(x == _INF, -1e4)),
        "forbidden-is-1e9": lambda x: _right(x.masked_fill(x == _INF, -1e9)),
        "top-50": lambda x: _right(x.topk(min(50, x.shape[-1]), dim=-1).values),
        "epsilon-large": lambda x: -(_p(x) * (_p(x) + 1e-6).log()).sum(dim=-1),
        "difference": lambda x: torch.logsumexp(x, -1) - (_p(x) * x.masked_fill(x == _INF, 0.0)).sum(dim=-1),
        "no-logarithm": lambda x: -(_p(x) * x).sum(dim=-1),
        "unstable-exp": _exp_unstable,
        "log-of-softmax": lambda x: -(_p(x) * _p(x).log()).sum(dim=-1),
        "minus-inf": lambda x: -(torch.log_softmax(x, -1).exp() * torch.log_softmax(x, -1)).sum(dim=-1),
        "epsilon": lambda x: -(_p(x) * (_p(x) + 1e-8).log()).sum(dim=-1),
        "no-graph": lambda x: _right(x).detach(),
    },
)


CHECKS = (Check("compute_entropy", CASES, compute_entropy, SLIPS, view=value_and_grads),)
