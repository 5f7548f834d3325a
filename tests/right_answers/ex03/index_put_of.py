"""Index_put of the kept values into zeros."""

from __future__ import annotations

import torch


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    where = torch.nonzero(mask, as_tuple=True)
    kept = torch.zeros_like(tensor).index_put(where, tensor[where]) if tensor.dim() else tensor * (mask != 0)
    return (kept.sum() if dim is None else kept.sum(dim)).div(normalize_constant)
