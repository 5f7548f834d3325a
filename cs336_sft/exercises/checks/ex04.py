"""ex04: one microbatch of supervised fine-tuning, loss and backward."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.checks.objects import random_microbatch
from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.losses import sft_microbatch_train_step


def _case(log_probs: Any, mask: Any, steps: int, constant: float | None = None, **texts: str) -> Case:
    kwargs = {} if constant is None else {"normalize_constant": constant}
    return Case((torch.tensor(log_probs, requires_grad=True), torch.tensor(mask), steps), kwargs, **texts)


def _random_case(seed: int) -> Case:
    """Vary shape, size, mask, steps, constant and .grad all together."""
    draw = random.Random(seed)
    log_probs, mask = random_microbatch(seed)
    mask = mask.to(draw.choice([torch.bool, torch.int64, torch.float32]))
    kwargs = {"normalize_constant": draw.choice([0.1, 0.5, 1.0, 2.5, 40])}
    label = f"random {list(mask.shape)}" + ", with the gradient of an earlier microbatch" * (log_probs.grad is not None)
    return Case((log_probs, mask, draw.choice([1, 2, 3, 8])), kwargs, label=label)


CASES = [_case(**row) for row in read_asset("cases")["ex04"]] + [_random_case(seed) for seed in range(24)]


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


CHECKS = (Check("sft_microbatch_train_step", CASES, sft_microbatch_train_step, SLIPS, view=_view),)
