"""ex03: the masked sum, divided by a constant."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.compare import Check, slips, value_and_grads
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.sandbox.perform import Case
from cs336_sft.losses import masked_normalize


def _random_case(seed: int) -> Case:
    """Vary shape, sign, size, dtype, mask, constant and dim all together."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = draw.choice([(3,), (1,), (1, 3), (3, 1), (2, 4), (2, 1, 3), (2, 2, 2), (2, 3, 2, 2)])
    tensor = torch.randint(-4, 5, shape, generator=generator) * draw.choice([1.0, 0.1, 2.0**24 + 1])
    dtype, values = draw.choice(
        [(torch.float64, (-1.0, 0.0, 0.5, 2.0)), (torch.float32, (0, 2, -1)), (torch.float32, (0, 1))]
    )
    mask = torch.tensor([draw.choice(values) for _ in range(tensor.numel())]).reshape(shape)
    mask = mask * (seed % 5 > 0) if len(values) > 2 else mask.bool()
    mask = mask.double() * 1e-60 if seed % 8 == 1 else mask  # 0 in float32
    tensor = tensor.to(dtype)
    if seed % 3 == 0:
        tensor.view(-1)[-1], mask.view(-1)[-1] = draw.choice([float("inf"), float("nan")]), draw.choice([0, 1])
    dim = draw.choice([None, *range(-len(shape), len(shape))])
    label = f"a random tensor of shape {list(shape)}, mask of {sorted(set(mask.flatten().tolist()))}, dim={dim}"
    return Case(
        (tensor.requires_grad_(seed % 2 == 0), mask, draw.choice([0.25, 0.5, 2.5, 3, 100.0])),
        {"dim": dim},
        label=label,
        backward="" if seed % 2 == 0 else None,
        tolerance=1e-9 if dtype == torch.float64 else 1e-5,
    )


def _case(tensor: Any, mask: Any, constant: float, dim: Any = None, gradient: bool = False, **texts: str) -> Case:
    tensor = torch.tensor(tensor, requires_grad=gradient)
    return Case((tensor, torch.tensor(mask), constant), {"dim": dim}, backward="" if gradient else None, **texts)


CASES = [_case(**row) for row in read_asset("cases")["ex03"]] + [_random_case(seed) for seed in range(40)]


def _formula(rule: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def wrong(tensor: Any, mask: Any, normalize_constant: float, dim: int | None = None) -> torch.Tensor:
        kept = torch.where(mask.bool(), tensor, 0.0)
        return rule(kept, mask.bool(), normalize_constant, dim, tensor)

    return wrong


SLIPS = slips(
    "ex03",
    {
        "masked-mean": _formula(lambda k, m, c, d, t: k.sum(dim=d) / m.sum(dim=d)),
        "divided-twice": _formula(lambda k, m, c, d, t: k.sum(dim=d) / m.sum(dim=d) / c),
        "mean-over-all": _formula(lambda k, m, c, d, t: (k.mean() if d is None else k.mean(dim=d)) / c),
        "no-constant": _formula(lambda k, m, c, d, t: k.sum(dim=d)),
        "no-mask": _formula(lambda k, m, c, d, t: t.sum(dim=d) / c),
        "inverted": _formula(lambda k, m, c, d, t: torch.where(m, 0.0, t).sum(dim=d) / c),
        "dim-ignored": _formula(lambda k, m, c, d, t: k.sum() / c),
        "dim-none-is-last": _formula(lambda k, m, c, d, t: k.sum(dim=-1 if d is None else d) / c),
        "if-dim": _formula(lambda k, m, c, d, t: (k.sum(dim=d) if d else k.sum()) / c),
        "keepdim": _formula(lambda k, m, c, d, t: (k.sum() if d is None else k.sum(dim=d, keepdim=True)) / c),
        "no-graph": _formula(lambda k, m, c, d, t: (k.sum(dim=d) / c).detach()),
        "numbers-weigh": lambda t, m, c, dim=None: torch.where(m != 0, t * m, 0.0).sum(dim=dim) / c,
        "only-one": lambda t, m, c, dim=None: torch.where(m == 1, t, 0.0).sum(dim=dim) / c,
        "only-positive": lambda t, m, c, dim=None: torch.where(m > 0, t, 0.0).sum(dim=dim) / c,
        "fractions-cut": lambda t, m, c, dim=None: torch.where(m.long() != 0, t, 0.0).sum(dim=dim) / c,
        "small-marks-lost": lambda t, m, c, dim=None: torch.where(m.to(t.dtype) != 0, t, 0.0).sum(dim=dim) / c,
        "constant-clamped": _formula(lambda k, m, c, d, t: k.sum(dim=d) / max(c, 1)),
        "constant-cut": _formula(lambda k, m, c, d, t: k.sum(dim=d) / max(int(c), 1)),
        "float32": _formula(lambda k, m, c, d, t: k.float().sum(dim=d) / c),
        "nansum": _formula(lambda k, m, c, d, t: k.nansum(dim=d) / c),
        "nan-to-num": lambda t, m, c, dim=None: torch.nan_to_num(t * m).sum(dim=dim) / c,
        "times-mask": lambda t, m, c, dim=None: (t * m).sum(dim=dim) / c,
    },
)


CHECKS = (Check("masked_normalize", CASES, masked_normalize, SLIPS, view=value_and_grads),)
