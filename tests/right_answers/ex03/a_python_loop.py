"""A Python loop over the slices along dim."""

from __future__ import annotations

import torch


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    keep = mask != 0
    if dim is None:
        total = tensor.new_zeros(())
        for value, kept in zip(tensor.reshape(-1), keep.reshape(-1)):
            total = total + (value if kept else torch.where(kept, value, torch.zeros_like(value)))
        return total / normalize_constant
    shape = list(tensor.shape)
    del shape[dim]
    total = tensor.new_zeros(shape)
    for values, kept in zip(tensor.unbind(dim), keep.unbind(dim)):
        total = total + torch.where(kept, values, torch.zeros((), dtype=values.dtype))
    return total / normalize_constant
