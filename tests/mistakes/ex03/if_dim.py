"""Slip: `if dim` instead of `if dim is not None`.

Expected message: takes dim=0 for no dim
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    total = kept.sum(dim=dim) if dim else kept.sum()
    return total / normalize_constant
