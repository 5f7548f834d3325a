"""Logsumexp minus chosen logit, the chosen logit without the head's other rows; row slices in a while loop."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint


def chunked_log_probs(
    hidden: torch.Tensor, head_weight: torch.Tensor, labels: torch.Tensor, chunk_size: int
) -> dict[str, torch.Tensor]:
    def log_z(h, w):
        logits = torch.einsum("nh,vh->nv", h.to(torch.float32), w.to(torch.float32))
        return torch.logsumexp(logits, dim=1)

    n, i, pieces, entropy = hidden.shape[0], 0, [], torch.zeros(hidden.shape[0])
    while i < n:
        j = min(i + chunk_size, n)
        z = checkpoint(log_z, hidden[i:j], head_weight, use_reentrant=False)
        chosen = (hidden[i:j].float() * head_weight[labels[i:j]].float()).sum(dim=1)
        pieces.append(chosen - z)
        with torch.no_grad():
            p = torch.softmax(hidden[i:j].float() @ head_weight.float().t(), dim=1)
            entropy[i:j] = torch.special.entr(p).sum(dim=1)
        i = j
    return {"log_probs": torch.cat(pieces), "token_entropy": entropy}
