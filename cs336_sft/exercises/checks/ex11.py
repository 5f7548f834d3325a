"""ex11: log-probabilities and entropies in chunks, without the whole of the logits."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo  # the first checkpoint needs it: imported here, not in every worker
from torch.utils.checkpoint import checkpoint

from cs336_sft.exercises.compare import Check, Misshapen, entries, slips
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.logprobs import compute_entropy

TOO_LARGE = "a tensor of the size of all logits, [N, V], is made"
ALL_KEPT = "the logits of all chunks are kept for the backward, together as large as [N, V]"


def _inputs(n: int, v: int, h: int, seed: int, *, grad: bool = False, dtype: Any = torch.float32) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(n, h, generator=generator)).to(dtype)
    weight = (torch.randn(v, h, generator=generator)).to(dtype)
    labels = torch.randint(0, v, (n,), generator=generator)
    return hidden.requires_grad_(grad), weight.requires_grad_(grad), labels


def _random_case(seed: int) -> Case:
    """Vary sizes, chunk, dtype, magnitude (p underflows), gradient all together."""
    draw = random.Random(seed)
    n, v, chunk = draw.choice([1, 2, 6, 9]), draw.choice([2, 3, 40]), draw.choice([1, 2, 3, 9, 50])
    dtype, scale = draw.choice([torch.float32, torch.bfloat16]), draw.choice([0.1, 1.0, 90.0])
    grad = dtype == torch.float32 and seed % 3 > 0  # gradients in bfloat16 depend on the order of the chunks
    hidden, weight, labels = _inputs(n, v, 3, seed, dtype=dtype)
    hidden = (hidden * scale).requires_grad_(grad and seed % 4 != 1)  # one of the two may be frozen
    weight.requires_grad_(grad and seed % 4 != 3)
    label = f"random: N = {n}, V = {v}, chunk_size {chunk}, {dtype}, hidden states of size {scale}"
    return Case(
        (hidden, weight, labels, chunk),
        label=label,
        why="one of the two is frozen, not both" * (hidden.requires_grad != weight.requires_grad),
        backward="log_probs" if grad else None,
        tolerance=1e-3,
    )


CASES = [
    Case((*_inputs(2, 4, 3, 0), 1), label="N = 2, V = 4, chunk_size 1"),
    Case((*_inputs(4, 5, 3, 1), 2), label="N = 4, V = 5, chunk_size 2"),
    Case((*_inputs(7, 5, 3, 2), 3), label="N = 7, chunk_size 3", why="chunks of 3, 3 and 1: the last is shorter"),
    Case((*_inputs(3, 5, 3, 3), 8), label="N = 3, chunk_size 8", why="a chunk larger than the batch"),
    Case((*_inputs(5, 5, 5, 4), 5), label="N = V = H = chunk_size = 5"),
    Case((*_inputs(7, 5, 3, 5, grad=True), 3), label="the gradients of hidden and weight", backward="log_probs"),
    Case(
        (*_inputs(64, 200, 4, 6, grad=True), 2),
        label="memory: N = 64, V = 200, chunk_size 2",
        backward="log_probs",
        measure=True,
    ),
    Case(
        (*_inputs(16, 50, 32, 7, dtype=torch.bfloat16), 4),
        label="bfloat16 inputs",
        why="bfloat16 has 8 bits of mantissa: bring the chunk and the weights to float32 before the product",
        tolerance=2e-3,
    ),
    *(_random_case(seed) for seed in range(16)),
]


def _part(rule: Callable[..., torch.Tensor], work: Any = torch.Tensor.float) -> Callable[..., torch.Tensor]:
    """Make what a chunk gives from its logits."""
    return lambda hidden, weight, labels: (
        rule((work(hidden) @ work(weight).T).float()).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    )


_chunk = _part(lambda x: torch.log_softmax(x, dim=-1))


def _entropy(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return compute_entropy(hidden.float() @ weight.float().T)


def _chunked(
    part: Callable[..., torch.Tensor] = _chunk,
    entropy: Callable[..., torch.Tensor] = _entropy,
    *,
    recompute: bool = True,
    starts: Callable[[int, int], list[int]] = lambda n, size: list(range(0, n, size)),
    label_start: Callable[[int], int] = lambda start: start,
) -> Callable[..., Any]:
    """Make the reference, or, with one part replaced, a slip."""

    def chunked_log_probs(hidden: Any, weight: Any, labels: Any, chunk_size: int) -> dict[str, torch.Tensor]:
        log_probs, entropies = [], []
        for start in starts(len(hidden), chunk_size):
            rows = hidden[start : start + chunk_size]
            first = label_start(start)
            wanted = labels[first : first + len(rows)]
            if recompute:
                log_probs.append(checkpoint(part, rows, weight, wanted, use_reentrant=False))
            else:
                log_probs.append(part(rows, weight, wanted))
            entropies.append(entropy(rows, weight))
        return {"log_probs": torch.cat(log_probs), "token_entropy": torch.cat(entropies)}

    return chunked_log_probs


def _whole(hidden: Any, weight: Any, labels: Any, chunk_size: int) -> dict[str, torch.Tensor]:
    return {"log_probs": _chunk(hidden, weight, labels), "token_entropy": _entropy(hidden, weight)}


SLIPS = slips(
    "ex11",
    {
        "whole-logits": _whole,
        "chunks-kept": _chunked(recompute=False),
        "last-chunk-dropped": _chunked(starts=lambda n, s: list(range(0, n - s + 1, s)) or [0]),
        "labels-restart": _chunked(label_start=lambda start: 0),
        "last-chunk-again": _chunked(starts=lambda n, s: [min(i, max(n - s, 0)) for i in range(0, n, s)]),
        "logits": _chunked(_part(lambda x: x)),
        "softmax-over-tokens": _chunked(_part(lambda x: torch.log_softmax(x, dim=0))),
        "sign": _chunked(_part(lambda x: -torch.log_softmax(x, dim=-1))),
        "log-of-softmax": _chunked(_part(lambda x: torch.softmax(x, dim=-1).log())),
        "surprisal": lambda h, w, y, c: (lambda r: r | {"token_entropy": -r["log_probs"].detach()})(
            _chunked()(h, w, y, c)
        ),
        "no-graph": lambda h, w, y, c: {k: v.detach() for k, v in _whole(h, w, y, c).items()},
        "weight-detached": lambda h, w, y, c: _chunked()(h, w.detach(), y, c),
        "bfloat16": _chunked(
            _part(lambda x: torch.log_softmax(x, -1), lambda x: x),
            torch.no_grad()(lambda h, w: compute_entropy(h @ w.T)),
        ),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    result = entries(seen.value, ("log_probs", "token_entropy"), torch.Tensor)
    if isinstance(result, Misshapen):
        return result
    if "token_entropy" in seen.with_graph:
        return Misshapen("token_entropy has a graph: it is only logged, so compute it under no_grad or detach it")
    if any(tensor.dtype != torch.float32 for tensor in result.values()):
        return Misshapen("log_probs and token_entropy are float32, whatever the inputs are")
    if case.backward is not None:
        result["gradients of hidden and weight"] = "none: log_probs has no graph" if seen.no_graph else list(seen.grads)
    if case.measure and not seen.no_graph:
        hidden, weight, _, chunk = case.args
        allowed = 4 * chunk * len(weight)  # a few tensors of the size of one chunk's logits
        large = seen.measured.get("largest", 0) > allowed
        kept = seen.measured.get("kept", 0) > allowed
        result["memory"] = TOO_LARGE if large else ALL_KEPT if kept else "in chunks"
    return result


CHECKS = (Check("chunked_log_probs", CASES, _chunked(), SLIPS, view=_view),)
