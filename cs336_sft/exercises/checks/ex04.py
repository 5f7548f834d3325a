"""ex04: one microbatch of supervised fine-tuning, loss and backward."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.losses import sft_microbatch_train_step

_LOG_PROBS = torch.tensor([[-1.0, -2.0, -9.0, -7.0], [-3.0, -9.0, -4.0, -2.0]])
_MASK = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool()


def _case(log_probs: torch.Tensor, mask: torch.Tensor, steps: int, constant: float, label: str, why: str = "") -> Case:
    return Case(
        (log_probs.clone().requires_grad_(), mask, steps), {"normalize_constant": constant}, label=label, why=why
    )


def _random_case(seed: int) -> Case:
    """Make a call that varies shape, size, mask, steps, constant and what stands in .grad all together."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape = draw.choice([(1, 1), (3, 1), (1, 4), (2, 5), (4, 4)])
    log_probs = (-torch.rand(shape, generator=generator) * draw.choice([0.01, 3, 90])).requires_grad_()
    if seed % 2:
        log_probs.grad = torch.ones(shape)
    mask = torch.rand(shape, generator=generator) > draw.choice([0.2, 0.6])
    label = f"random {list(shape)}" + ", with the gradient of an earlier microbatch" * (seed % 2)
    return Case(
        (log_probs, mask.to(draw.choice([torch.bool, torch.int64, torch.float32])), draw.choice([1, 2, 3, 8])),
        {"normalize_constant": draw.choice([0.1, 0.5, 1.0, 2.5, 40])},
        label=label,
    )


def _cases() -> list[Case]:
    generator = torch.Generator().manual_seed(4)
    log_probs = -torch.rand(3, 5, generator=generator) * 4
    mask = torch.rand(3, 5, generator=generator) > 0.4
    return [
        _case(_LOG_PROBS, _MASK, 1, 1.0, "log-probs [[-1 -2 -9 -7] [-3 -9 -4 -2]], mask [[1 1 0 0] [1 0 0 0]], 1 step"),
        _case(_LOG_PROBS, _MASK, 4, 1.0, "the same, 4 accumulation steps"),
        _case(_LOG_PROBS, _MASK, 1, 10.0, "the same, 1 step, normalize_constant 10"),
        _case(_LOG_PROBS, _MASK, 2, 5.0, "the same, 2 steps, normalize_constant 5"),
        _case(log_probs, mask, 8, 3.0, "random [3, 5], 8 steps, normalize_constant 3"),
        _case(
            _LOG_PROBS,
            torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool(),
            2,
            1.0,
            "the second row all masked",
            "a row that is all masked adds 0 to the sum, and still counts as a row",
        ),
        Case(
            (_LOG_PROBS.clone().requires_grad_(), _MASK.long(), 2), label="an integer mask, normalize_constant left out"
        ),
        _case(
            _LOG_PROBS, _MASK & False, 2, 1.0, "everything masked", "nothing to learn here: loss and gradient are zeros"
        ),
        *(_random_case(seed) for seed in range(24)),
    ]


def _formula(
    rule: Callable[[torch.Tensor, torch.Tensor, int, float], torch.Tensor],
    reported: Callable[[torch.Tensor, int], torch.Tensor] = lambda loss, steps: loss,
    backward: bool = True,
) -> Callable[..., Any]:
    def wrong(log_probs: Any, mask: Any, steps: int, normalize_constant: float = 1.0) -> Any:
        loss = rule(log_probs, mask.bool(), steps, normalize_constant)
        if backward:
            loss.backward()
        return reported(loss, steps), {}

    return wrong


def _rows(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return -(log_probs * mask).sum(dim=-1)


SLIPS = slips(
    "ex04",
    {
        "never-divided": _formula(lambda x, m, n, c: _rows(x, m).mean() / c),
        "divided-twice": _formula(lambda x, m, n, c: _rows(x, m).mean() / c / n / n),
        "returned-undivided": _formula(lambda x, m, n, c: _rows(x, m).mean() / c / n, lambda loss, n: loss * n),
        "sign": _formula(lambda x, m, n, c: -_rows(x, m).mean() / c / n),
        "sum-over-batch": _formula(lambda x, m, n, c: _rows(x, m).sum() / c / n),
        "token-mean": _formula(lambda x, m, n, c: _rows(x, m).sum() / m.sum() / c / n),
        "mean-of-means": _formula(lambda x, m, n, c: (_rows(x, m) / m.sum(dim=-1).clamp(min=1)).mean() / c / n),
        "mean-of-means-nan": _formula(lambda x, m, n, c: (_rows(x, m) / m.sum(dim=-1)).mean() / c / n),
        "mean-over-padding": _formula(lambda x, m, n, c: -(x * m).mean() / c / n),
        "masked-rows-lost": _formula(lambda x, m, n, c: _rows(x, m).sum() / m.any(dim=-1).sum().clamp(min=1) / c / n),
        "mean-over-time": _formula(lambda x, m, n, c: _rows(x, m).sum() / x.shape[1] / c / n),
        "constant-clamped": _formula(lambda x, m, n, c: _rows(x, m).mean() / max(c, 1) / n),
        "constant-cut": _formula(lambda x, m, n, c: _rows(x, m).mean() / max(int(c), 1) / n),
        "clamped": _formula(lambda x, m, n, c: _rows(x.clamp(min=-20), m).mean() / c / n),
        "no-mask": _formula(lambda x, m, n, c: -x.sum(dim=-1).mean() / c / n),
        "no-constant": _formula(lambda x, m, n, c: _rows(x, m).mean() / n),
        "no-backward": _formula(lambda x, m, n, c: _rows(x, m).mean() / c / n, backward=False),
        "backward-before-division": _formula(lambda x, m, n, c: _rows(x, m).mean() / c, lambda loss, n: loss / n),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[1], dict):
        return Misshapen("returns something else than (loss, metadata) with a dict for metadata")
    if not isinstance(value[0], torch.Tensor) or value[0].dim():
        return Misshapen("the loss is no scalar tensor, which has no dimension: its shape is ()")
    return {"loss": value[0], "gradient of log_probs": seen.grads[0]}


CHECKS = (Check("sft_microbatch_train_step", _cases(), sft_microbatch_train_step, SLIPS, view=_view),)
