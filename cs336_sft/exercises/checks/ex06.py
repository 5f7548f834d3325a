"""ex06: log-probabilities of the labels, and entropies, from a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.checks.objects import TinyLM, TrainedLM
from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.logprobs import compute_entropy, get_response_log_probs


def _cases() -> list[Case]:
    ids = torch.tensor([[1, 2, 3], [4, 0, 0]])
    random = (torch.arange(18) ** 2 % 7).reshape(3, 6)
    shapes = [(1, 1, 2), (1, 4, 3), (3, 1, 5), (4, 4, 4), (1, 6, 9)]
    apart = [torch.randint(0, v, (2, b, t), generator=torch.Generator().manual_seed(b)) for b, t, v in shapes]
    return [
        Case((TinyLM(5), ids[:, :-1], ids[:, 1:]), label="ids [[1 2 3] [4 0 0]], vocabulary 5"),
        Case((TinyLM(5), ids[:, :-1], ids[:, 1:], True), label="the same with return_token_entropy=True"),
        Case((TrainedLM(5, seed=7), ids[:, :-1], ids[:, 1:]), label="a model before a step of training"),
        Case((TrainedLM(5, seed=8), ids[:, :-1], ids[:, 1:]), label="a step later", why="the weights have changed"),
        Case((TinyLM(7, seed=1), random[:, :-1], random[:, 1:], True), label="3 random rows of 6, vocabulary 7"),
        Case(
            (TinyLM(7, seed=3, scale=40.0), random[:, :-1], random[:, 1:], True),
            label="a model with huge logits",
            why="huge logits: take log_softmax of the logits, not the log of their softmax",
        ),
        Case(
            (TinyLM(5), ids[:, :-1], ids[:, 1:]),
            label="the gradient of the log-probabilities",
            backward="log_probs",
            why="the gradient reaches the model's weights: no no_grad and no detach around log_probs",
        ),
        *(
            Case(
                (TinyLM(v, seed=seed, scale=scale), inputs, labels, scale > 1),
                label=f"B = {b}, T = {t}, V = {v}, labels that are not the inputs shifted",
            )
            for seed, scale in ((4, 1.0), (5, 2.0), (6, 300.0))
            for (b, t, v), (inputs, labels) in zip(shapes, apart, strict=True)
        ),
    ]


def _formula(
    log_probs: Callable[..., torch.Tensor] = lambda x, lp, i, y: _pick(lp, y),
    entropy: Callable[..., torch.Tensor] = lambda x, lp, y: compute_entropy(x),
    keys: Callable[[bool], bool] = lambda asked: asked,
) -> Callable[..., Any]:
    def wrong(model: Any, input_ids: Any, labels: Any, return_token_entropy: bool = False) -> Any:
        logits = model(input_ids).logits
        lp = torch.log_softmax(logits, dim=-1)
        result = {"log_probs": log_probs(logits, lp, input_ids, labels)}
        if keys(return_token_entropy):
            result["token_entropy"] = entropy(logits, lp, labels)
        return result

    return wrong


def _pick(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


SLIPS = slips(
    "ex06",
    {
        "logits": _formula(lambda x, lp, i, y: _pick(x, y)),
        "probabilities": _formula(lambda x, lp, i, y: _pick(torch.softmax(x, -1), y)),
        "nll": _formula(lambda x, lp, i, y: -_pick(lp, y)),
        "input-ids": _formula(lambda x, lp, i, y: _pick(lp, i)),
        "shifted-again": _formula(lambda x, lp, i, y: _pick(torch.log_softmax(x[:, :-1], -1), y[:, 1:])),
        "softmax-dim-1": _formula(lambda x, lp, i, y: _pick(torch.log_softmax(x, 1), y)),
        "sum-over-time": _formula(lambda x, lp, i, y: _pick(lp, y).sum(-1)),
        "log-of-softmax": _formula(
            lambda x, lp, i, y: _pick(torch.softmax(x, -1).log(), y),
            lambda x, lp, y: -(torch.softmax(x, -1) * torch.softmax(x, -1).log()).sum(-1),
        ),
        "zero-ignored": _formula(lambda x, lp, i, y: _pick(lp, y) * (y != 0)),
        "clamped": _formula(lambda x, lp, i, y: _pick(lp, y).clamp(min=-20)),
        "likeliest": _formula(lambda x, lp, i, y: lp.max(-1).values),
        "next-input": _formula(lambda x, lp, i, y: _pick(lp, torch.cat([i[:, 1:], y[:, -1:]], dim=1))),
        "last-label-ignored": _formula(lambda x, lp, i, y: _pick(lp, y) * (y != y[:, -1:])),
        "entropy-of-label": _formula(entropy=lambda x, lp, y: -_pick(lp.exp() * lp, y)),
        "no-graph": _formula(lambda x, lp, i, y: _pick(lp, y).detach()),
        "entropy-always": _formula(keys=lambda asked: True),
        "entropy-missing": _formula(keys=lambda asked: False),
        "surprisal": _formula(entropy=lambda x, lp, y: -_pick(lp, y)),
        "entropy-sign": _formula(entropy=lambda x, lp, y: -compute_entropy(x)),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value
    if not isinstance(value, dict) or "log_probs" not in value:
        return Misshapen('returns something else than a dict with "log_probs"')
    if seen.no_graph:
        return {"gradient": "none: log_probs has no graph to go back through"}
    if case.backward is not None:
        return {"gradient of the model's weights": list(seen.grads)}
    return value


CHECKS = (Check("get_response_log_probs", _cases(), get_response_log_probs, SLIPS, view=_view),)
