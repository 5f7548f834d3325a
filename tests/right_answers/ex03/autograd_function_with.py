"""Autograd.Function with its own backward."""

from __future__ import annotations

import torch


class _MaskedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, keep, constant, dim):
        ctx.save_for_backward(keep)
        ctx.constant, ctx.dim, ctx.dtype = constant, dim, tensor.dtype
        kept = torch.where(keep, tensor, tensor.new_zeros(()))
        return (kept.sum() if dim is None else kept.sum(dim)) / constant

    @staticmethod
    def backward(ctx, grad):
        (keep,) = ctx.saved_tensors
        if ctx.dim is not None and keep.dim() > 0:
            grad = grad.unsqueeze(ctx.dim)
        return (grad / ctx.constant).expand(keep.shape) * keep.to(ctx.dtype), None, None, None


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    return _MaskedSum.apply(tensor, mask.bool(), normalize_constant, dim)
