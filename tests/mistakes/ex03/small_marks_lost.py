"""Slip: the mask in the tensor's precision.

Expected message: puts the mask in the tensor's precision
"""

from __future__ import annotations

import torch


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = torch.where(mask.to(tensor.dtype).bool(), tensor, torch.zeros_like(tensor))
    return (kept.sum() if dim is None else kept.sum(dim)) / normalize_constant
