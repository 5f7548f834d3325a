"""Ways to get log-probabilities and entropies that differ in what they hold in memory: notebook 10 compares them.

Each takes hidden states ``[N, h]``, the head's matrix ``[V, h]`` and labels ``[N]`` (int64), and returns ``(log_probs,
entropy)``, both float32 ``[N]`` in nats; ``entropy`` has no graph.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

Result = tuple[torch.Tensor, torch.Tensor]
Method = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Result]


def naive(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """Make the logits, a log-softmax, and three tensors for the entropy, as the notes."""
    return naive_line_by_line(hidden, weight, labels, lambda line: None)


def naive_line_by_line(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    mark: Callable[[str], None],
    *,
    upcast: bool = True,
    keep: bool = False,
) -> Result:
    """Do as ``naive``, calling ``mark`` with each line's name before it.

    ``upcast`` brings logits in half precision to float32; ``keep`` keeps the others as well, as a model's output does.

    >>> lines = []
    >>> _ = naive_line_by_line(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), lines.append)
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


def naive_with_graph(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """Leave out ``no_grad``: the entropy's graph keeps its tensors until the backward."""
    logits = F.linear(hidden, weight).float()
    log_probs = torch.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return log_probs, -(torch.softmax(logits, dim=-1) * torch.log_softmax(logits, dim=-1)).sum(dim=-1)


def log_softmax(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """Make one log-softmax for both, and drop the logits at once."""
    logits = F.linear(hidden, weight).float()
    log_softmax = torch.log_softmax(logits, dim=-1)  # [N, V], kept for the backward
    del logits
    log_probs = log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
    return log_probs, entropy


def logsumexp(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> Result:
    """Keep the logits alone: ``H = logsumexp(z) - sum_v p_v z_v``."""
    logits = F.linear(hidden, weight).float()
    normalizer = torch.logsumexp(logits, dim=-1)  # [N]
    log_probs = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - normalizer
    with torch.no_grad():
        probs = torch.softmax(logits, dim=-1)
        entropy = normalizer - probs.mul_(logits).sum(dim=-1)  # in place: no third tensor
    return log_probs, entropy


def chunked_rows(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, method: Method = logsumexp, chunk: int = 1024
) -> Result:
    """Run a method in chunks, whose logits all wait for the backward."""
    parts = [method(h, weight, y) for h, y in zip(hidden.split(chunk), labels.split(chunk), strict=True)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def recomputed(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, chunk: int = 1024) -> Result:
    """Run in chunks whose logits are made again in the backward (``checkpoint``)."""
    method = partial(checkpoint, logsumexp, use_reentrant=False)
    return chunked_rows(hidden, weight, labels, method=method, chunk=chunk)
