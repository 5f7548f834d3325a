"""Slip: keepdim=True.

Expected message: keeps the summed dimension with size 1
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    if dim is None:
        return kept.sum() / normalize_constant
    return kept.sum(dim=dim, keepdim=True) / normalize_constant
