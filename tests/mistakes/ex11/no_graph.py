"""Slip: no_grad around everything.

Expected message: log_probs has no graph
"""

from __future__ import annotations

import torch


@torch.no_grad()
def chunked_log_probs(hidden, head_weight, labels, chunk_size):
    log_probs, entropies = [], []
    for i in range(0, len(hidden), chunk_size):
        log_p = torch.log_softmax(hidden[i : i + chunk_size].float() @ head_weight.float().t(), dim=-1)
        log_probs.append(log_p.gather(1, labels[i : i + chunk_size, None])[:, 0])
        entropies.append(-(log_p.exp() * log_p).sum(dim=-1))
    return {"log_probs": torch.cat(log_probs), "token_entropy": torch.cat(entropies)}
