"""Row by row in a loop: only the possible tokens of each row enter."""

from __future__ import annotations

import torch


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    flat = logits.reshape(-1, logits.shape[-1])
    values = []
    for row in flat:
        log_p = torch.log_softmax(row, dim=0)
        log_p = log_p[log_p.detach() > -1000]
        values.append(-(log_p.exp() * log_p).sum())
    return torch.stack(values).reshape(logits.shape[:-1])
