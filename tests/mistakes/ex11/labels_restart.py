"""Slip: labels not cut along.

Expected message: every chunk is compared with the labels of the first chunk
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint


def part(hidden, weight, labels):
    logits = hidden.float() @ weight.float().t()
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return log_p.gather(1, labels[:, None])[:, 0], entropy


def chunked_log_probs(hidden, head_weight, labels, chunk_size):
    log_probs, entropies = [], []
    for i in range(0, len(hidden), chunk_size):
        rows = hidden[i : i + chunk_size]
        wanted = labels[: len(rows)]
        a, b = checkpoint(part, rows, head_weight, wanted, use_reentrant=False)
        log_probs.append(a)
        entropies.append(b)
    return {"log_probs": torch.cat(log_probs), "token_entropy": torch.cat(entropies)}
