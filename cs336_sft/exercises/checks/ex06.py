"""ex06: log-probabilities of the labels, and entropies, from a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.compare import Misshapen, Slip, compare
from cs336_sft.exercises.report import Failure
from cs336_sft.exercises.sandbox.objects import model_spec
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.exercises.sandbox.runner import Session
from cs336_sft.logprobs import compute_entropy, get_response_log_probs


def _cases() -> list[Case]:
    ids = torch.tensor([[1, 2, 3], [4, 0, 0]])
    random = torch.randint(0, 7, (3, 6), generator=torch.Generator().manual_seed(6))
    square = torch.randint(0, 4, (4, 5), generator=torch.Generator().manual_seed(7))
    return [
        Case((model_spec(5), ids[:, :-1], ids[:, 1:]), label="ids [[1 2 3] [4 0 0]], vocabulary 5"),
        Case((model_spec(5), ids[:, :-1], ids[:, 1:], True), label="the same with return_token_entropy=True"),
        Case((model_spec(7, seed=1), random[:, :-1], random[:, 1:], True), label="3 random rows of 6, vocabulary 7"),
        Case((model_spec(4, seed=2), square[:, :-1], square[:, 1:]), label="B = T = V = 4"),
        Case(
            (model_spec(7, seed=3, scale=40.0), random[:, :-1], random[:, 1:], True),
            label="a model with huge logits",
            why="huge logits: take log_softmax of the logits, not the log of their softmax",
        ),
        Case(
            (model_spec(5), ids[:, :-1], ids[:, 1:]),
            label="the gradient of the log-probabilities",
            backward="log_probs",
            why="the gradient reaches the model's weights: no no_grad and no detach around log_probs",
        ),
    ]


def _formula(
    log_probs: Callable[..., torch.Tensor] | None = None,
    entropy: Callable[..., torch.Tensor] | None = None,
    keys: Callable[[bool], bool] = lambda asked: asked,
) -> Callable[..., Any]:
    def right(logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)

    def wrong(model: Any, input_ids: Any, labels: Any, return_token_entropy: bool = False) -> Any:
        logits = model(input_ids).logits
        result = {"log_probs": (log_probs or right)(logits, input_ids, labels)}
        if keys(return_token_entropy):
            result["token_entropy"] = entropy(logits, labels) if entropy else compute_entropy(logits)
        return result

    return wrong


def _pick(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _shifted_again(logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _pick(torch.log_softmax(logits[:, :-1], -1), labels[:, 1:])


def _rolled(logits: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _pick(torch.log_softmax(logits, -1), labels.roll(-1, dims=1))


SLIPS = (
    Slip(
        "logits",
        "gives the labels' logits; a log_softmax over the vocabulary comes first",
        _formula(lambda x, i, y: _pick(x, y)),
    ),
    Slip(
        "probabilities",
        "gives probabilities; the contract asks for their logarithms",
        _formula(lambda x, i, y: _pick(torch.softmax(x, -1), y)),
    ),
    Slip(
        "nll",
        "the sign is flipped: log-probabilities are never positive",
        _formula(lambda x, i, y: -_pick(torch.log_softmax(x, -1), y)),
    ),
    Slip(
        "input-ids",
        "looks up input_ids instead of labels: the probability of the token that was just read",
        _formula(lambda x, i, y: _pick(torch.log_softmax(x, -1), i)),
    ),
    Slip("shifted-again", "shifts once more: input_ids and labels are already one apart", _formula(_shifted_again)),
    Slip("labels-rolled", "moves the labels once more: input_ids and labels are already one apart", _formula(_rolled)),
    Slip(
        "softmax-dim-1",
        "the softmax runs over time (dimension 1), not over the vocabulary (the last one)",
        _formula(lambda x, i, y: _pick(torch.log_softmax(x, 1), y)),
    ),
    Slip(
        "softmax-dim-0",
        "the softmax runs over the batch (dimension 0), not over the vocabulary (the last one)",
        _formula(lambda x, i, y: _pick(torch.log_softmax(x, 0), y)),
    ),
    Slip(
        "sum-over-time",
        "sums over time: the contract keeps one log-probability for each token",
        _formula(lambda x, i, y: _pick(torch.log_softmax(x, -1), y).sum(-1)),
    ),
    Slip(
        "base-2",
        "logarithms to base 2: the contract asks for nats",
        _formula(lambda x, i, y: _pick(torch.log_softmax(x, -1), y) / 0.6931471805599453),
    ),
    Slip(
        "log-of-softmax",
        "log(softmax) is -inf where a probability underflows: use log_softmax",
        _formula(
            lambda x, i, y: _pick(torch.softmax(x, -1).log(), y),
            lambda x, y: -(torch.softmax(x, -1) * torch.softmax(x, -1).log()).sum(-1),
        ),
        hint=3,
    ),
    Slip(
        "log-of-softmax-only",
        "log(softmax) is -inf where a probability underflows: use log_softmax",
        _formula(lambda x, i, y: _pick(torch.softmax(x, -1).log(), y)),
        hint=3,
    ),
    Slip(
        "no-graph",
        "log_probs has no graph: no_grad or detach cut it off, and nothing would be learned",
        _formula(lambda x, i, y: _pick(torch.log_softmax(x, -1), y).detach()),
        hint=3,
    ),
    Slip(
        "entropy-always",
        "token_entropy is there although return_token_entropy is False",
        _formula(keys=lambda asked: True),
    ),
    Slip(
        "entropy-missing",
        "token_entropy is missing although return_token_entropy is True",
        _formula(keys=lambda asked: False),
    ),
    Slip(
        "surprisal",
        "token_entropy is the label's -log p: the entropy is its average over the whole vocabulary",
        _formula(entropy=lambda x, y: -_pick(torch.log_softmax(x, -1), y)),
    ),
    Slip(
        "entropy-sign",
        "the sign of token_entropy is flipped: entropy is never negative",
        _formula(entropy=lambda x, y: -compute_entropy(x)),
    ),
    Slip(
        "entropy-mean",
        "token_entropy is one number: the contract keeps one for each position",
        _formula(entropy=lambda x, y: compute_entropy(x).mean()),
    ),
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


def check(session: Session) -> Failure | None:
    return compare(session, "get_response_log_probs", _cases(), get_response_log_probs, SLIPS, view=_view)
