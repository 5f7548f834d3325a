"""Masked_fill with the inverted bool mask."""

from __future__ import annotations

import torch


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    dropped = ~mask.to(torch.bool)
    kept = tensor.masked_fill(dropped, 0.0)
    if dim is None:
        return torch.sum(kept) / normalize_constant
    return torch.sum(kept, dim) / normalize_constant
