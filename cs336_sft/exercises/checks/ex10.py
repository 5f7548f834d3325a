"""ex10: gradient accumulation in which every token weighs the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cs336_sft.exercises.checks.objects import random_microbatch
from cs336_sft.exercises.compare import Check, Misshapen, slips, value_and_grads
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.losses import token_mean_loss

Pair = tuple[torch.Tensor, torch.Tensor]

_SHORT = torch.tensor([[-3.0, -3.0, -8.0, -8.0]]), torch.tensor([[1, 1, 0, 0]]).bool()
_LONG = torch.tensor([[-0.5, -0.5, -0.5, -0.5, -9.0]]), torch.tensor([[1, 1, 1, 1, 0]]).bool()
_MANY = torch.full((1, 2051), -3.0), torch.ones(1, 2051).bool()  # a number that neither half nor bfloat16 has
_NONE = torch.tensor([[-7.0, -7.0]]), torch.tensor([[0, 0]]).bool()


def _leaf(pair: Pair) -> Pair:
    return pair[0].clone().requires_grad_(), pair[1]


def _random(seed: int) -> list[Pair]:
    pairs = [_leaf(_SHORT), *(random_microbatch(5 * seed + i) for i in range(seed % 4))]
    return [*pairs, pairs[-1]]


def _loss_cases() -> list[Case]:
    log_probs = torch.tensor([[-1.0, -2.0, -9.0, -7.0], [-3.0, -9.0, -4.0, -2.0]])
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    return [
        Case((log_probs, mask, 3), label="[[-1 -2 -9 -7] [-3 -9 -4 -2]], mask [[1 1 0 0] [1 0 0 0]], total 3"),
        Case((log_probs, mask, 12), label="the same microbatch in a step of 12 target tokens"),
        Case((*_NONE, 5), label="a microbatch without targets", why="no target here: its share is 0, not nan"),
        Case((log_probs.clone().requires_grad_(), mask, 12), label="its gradient", backward=""),
        Case((*_leaf(_NONE), 5), label="the gradient without targets", why="no target: zeros as gradient", backward=""),
        *(Case((*random_microbatch(seed), 7), label="a random microbatch", backward="") for seed in range(8)),
    ]


def _loss(rule: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda log_probs, response_mask, total_target_tokens: rule(
        torch.where(response_mask, log_probs, 0.0), response_mask, total_target_tokens, log_probs
    )


LOSS_SLIPS = slips(
    "ex10-loss",
    {
        "own-tokens": _loss(lambda k, m, n, x: -k.sum() / m.sum()),
        "sign": _loss(lambda k, m, n, x: k.sum() / n),
        "no-mask": _loss(lambda k, m, n, x: -x.sum() / n),
        "never-divided": _loss(lambda k, m, n, x: -k.sum()),
        "row-mean": _loss(lambda k, m, n, x: -k.sum(-1).mean() / n),
        "no-graph": _loss(lambda k, m, n, x: (-k.sum() / n).detach()),
    },
)


def _step_cases() -> list[Case]:
    return [
        Case(([_leaf(_SHORT)],), label="one microbatch with 2 targets"),
        Case(([_leaf(_SHORT), _leaf(_LONG)],), label="2 targets at -3 in one microbatch, 4 at -0.5 in the next"),
        Case(
            ([_leaf(_SHORT), _leaf(_NONE), _leaf(_LONG)],),
            label="a microbatch without targets between two others",
            why="a microbatch without targets adds nothing; it must not make a nan",
        ),
        Case(([_leaf(_SHORT), _leaf(_MANY)],), label="2 targets and 2,051", why="counts are whole, at any size"),
        *(Case((_random(seed),), label="random microbatches, the last one twice") for seed in range(12)),
    ]


def _step(
    divisor: Callable[[Sequence[Pair], int], Any],
    *,
    use: slice = slice(None),
    report: Callable[[list[float], int], float] = lambda shares, n: sum(shares),
    backward: bool = True,
    sign: float = -1.0,
) -> Callable[..., float]:
    def wrong(microbatches: Sequence[Pair]) -> float:
        shares = []
        for index, (log_probs, mask) in list(enumerate(microbatches))[use]:
            share = sign * torch.where(mask, log_probs, 0.0).sum() / divisor(microbatches, index)
            if backward:
                share.backward()
            shares.append(share.item())
        return report(shares, len(microbatches))

    return wrong


def _total(batches: Sequence[Pair], index: int) -> int:
    return sum(int(mask.sum()) for _, mask in batches)


STEP_SLIPS = slips(
    "ex10-step",
    {
        "mean-of-means": _step(lambda b, i: b[i][1].sum() * len(b)),
        "mean-of-means-safe": _step(lambda b, i: b[i][1].sum().clamp(min=1) * len(b)),
        "sum-of-means-safe": _step(lambda b, i: b[i][1].sum().clamp(min=1)),
        "divided-again": _step(lambda b, i: _total(b, i) * len(b)),
        "padding-counted": _step(lambda b, i: sum(m.numel() for _, m in b)),
        "sure-not-counted": _step(lambda b, i: sum(int((x * m != 0).sum()) for x, m in b)),
        "sequences-counted": _step(lambda b, i: sum(len(m) for _, m in b)),
        "never-divided": _step(lambda b, i: 1),
        "running-total": _step(lambda b, i: sum(int(m.sum()) for _, m in b[: i + 1])),
        "last-left-out": _step(_total, use=slice(None, -1)),
        "reported-last": _step(_total, report=lambda s, n: s[-1]),
        "reported-negative": _step(_total, report=lambda s, n: -sum(s)),
        "no-backward": _step(_total, backward=False),
        "sign": _step(_total, sign=1.0),
        "reported-mean": _step(_total, report=lambda s, n: sum(s) / n),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value
    if not isinstance(value, (int, float)):
        return Misshapen("accumulate_gradients returns something else than a float, the loss (.item() of a tensor)")
    # No gradient at all and a gradient of zeros are the same to an optimizer with no momentum.
    grads = [torch.zeros_like(x) if g is None else g for g, (x, _) in zip(seen.grads, case.args[0], strict=True)]
    return {"loss": float(value), "gradient of log_probs": grads}


CHECKS = (
    Check("token_mean_loss", _loss_cases(), token_mean_loss, LOSS_SLIPS, value_and_grads),
    Check("accumulate_gradients", _step_cases(), _step(_total), STEP_SLIPS, _view),
)
