"""Slip: all logits first, then chunks of them.

Expected message: computes all logits at once
"""

from __future__ import annotations

import torch


def chunked_log_probs(hidden, head_weight, labels, chunk_size):
    logits = hidden.float() @ head_weight.float().t()
    log_probs, entropies = [], []
    for rows, wanted in zip(logits.split(chunk_size), labels.split(chunk_size), strict=True):
        log_p = torch.log_softmax(rows, dim=-1)
        log_probs.append(log_p.gather(1, wanted[:, None])[:, 0])
        entropies.append(-(log_p.exp() * log_p).sum(dim=-1).detach())
    return {"log_probs": torch.cat(log_probs), "token_entropy": torch.cat(entropies)}
