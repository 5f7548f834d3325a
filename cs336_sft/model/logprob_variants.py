"""Ways to get log-probabilities and entropies from hidden states, from the notes' to the one that keeps no logits.

They give the same numbers and differ in what they hold in memory, which is what notebook 10, ``cs336-sft memory`` and
``benchmarks/entropy_oom.py`` compare. Training uses ``cs336_sft.logprobs``. Each takes hidden states ``[N, h]``, the
head's matrix ``[V, h]`` and labels ``[N]`` (int64), and returns ``(log_probs, entropy)``, both float32 ``[N]`` in nats;
``entropy`` has no graph. Logits in half precision are brought to float32, as float32 logits cost the notes 7.46 GB.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

Result = tuple[torch.Tensor, torch.Tensor]
Method = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Result]

CHUNK = 1024  # positions whose logits exist at once


def notes(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """The notes' version: a log-softmax for the loss; softmax, log-softmax and their product for the entropy.

    >>> hidden, weight = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 3.0]]).log().nan_to_num(neginf=0.0)
    >>> log_probs, entropy = notes(hidden, weight, torch.tensor([0, 1]))
    >>> log_probs.exp(), entropy
    (tensor([0.5000, 0.7500]), tensor([0.6931, 0.5623]))
    """
    return notes_line_by_line(hidden, weight, labels, lambda line: None)


def notes_line_by_line(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    mark: Callable[[str], None],
    *,
    upcast: bool = True,
    keep: bool = False,
) -> Result:
    """``notes``, calling ``mark`` before each line with the name of what it is about to make.

    Args:
        mark: looks at the memory, say; called last with ``"end"``, while everything is still alive.
        upcast: bring logits in half precision to float32.
        keep: keep the logits in half precision beside them, as a model's output object does that is still referred to.

    >>> lines = []
    >>> _ = notes_line_by_line(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), lines.append)
    >>> lines
    ['logits', 'logits.float()', 'log-softmax of the loss', 'probs', 'log_probs', 'probs * log_probs', 'end']
    """
    mark("logits")
    raw = F.linear(hidden, weight)  # [N, V]
    mark("logits.float()")
    logits = raw.float() if upcast else raw
    if not keep:
        del raw
    mark("log-softmax of the loss")
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)  # kept for the backward
    with torch.no_grad():
        mark("probs")
        probs = torch.softmax(logits, dim=-1)  # [N, V]
        mark("log_probs")
        log_softmax = torch.log_softmax(logits, dim=-1)  # [N, V]
        mark("probs * log_probs")
        product = probs * log_softmax  # [N, V]
        mark("end")
        entropy = -product.sum(dim=-1)
    return log_probs, entropy


def notes_with_graph(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """The notes' version without ``no_grad``: the entropy's graph keeps its tensors until the backward."""
    logits = F.linear(hidden, weight).float()
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    probs, log_softmax = torch.softmax(logits, dim=-1), torch.log_softmax(logits, dim=-1)
    return log_probs, -(probs * log_softmax).sum(dim=-1)


def log_softmax(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """One log-softmax for both, the logits dropped as soon as it is there."""
    logits = F.linear(hidden, weight).float()
    log_softmax = torch.log_softmax(logits, dim=-1)  # [N, V], kept for the backward
    del logits
    log_probs = log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
    return log_probs, entropy


def logsumexp(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """``log p_y = z_y - logsumexp(z)`` and ``H = logsumexp(z) - sum_v p_v z_v``: only the logits stay."""
    logits = F.linear(hidden, weight).float()
    normalizer = torch.logsumexp(logits, dim=-1)  # [N]
    log_probs = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - normalizer
    with torch.no_grad():
        probs = torch.softmax(logits, dim=-1)
        entropy = normalizer - probs.mul_(logits).sum(dim=-1)  # in place: no third tensor
    return log_probs, entropy


def chunked_rows(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, method: Method = logsumexp, chunk: int = CHUNK
) -> Result:
    """``method`` on ``chunk`` positions at a time. Without recomputation every chunk's logits wait for the backward."""
    parts = [method(h, weight, y) for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def recomputed(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, chunk: int = CHUNK) -> Result:
    """As ``chunked_rows``, but each chunk's logits are dropped and made again in the backward (``checkpoint``)."""

    def one(h: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> Result:
        return checkpoint(logsumexp, h, w, y, use_reentrant=False)

    return chunked_rows(hidden, weight, labels, method=one, chunk=chunk)
