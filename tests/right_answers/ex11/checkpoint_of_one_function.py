"""Checkpoint of one function a chunk."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint


def _chunk(hidden, head_weight, labels):
    log_p = torch.log_softmax(hidden.float() @ head_weight.float().T, dim=-1)
    chosen = log_p.gather(-1, labels[:, None]).squeeze(-1)
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return chosen, entropy


def chunked_log_probs(
    hidden: torch.Tensor, head_weight: torch.Tensor, labels: torch.Tensor, chunk_size: int
) -> dict[str, torch.Tensor]:
    log_probs, entropies = [], []
    for start in range(0, len(labels), chunk_size):
        stop = start + chunk_size
        chosen, entropy = checkpoint(_chunk, hidden[start:stop], head_weight, labels[start:stop], use_reentrant=False)
        log_probs.append(chosen)
        entropies.append(entropy.detach())
    return {"log_probs": torch.cat(log_probs), "token_entropy": torch.cat(entropies)}
