"""Slip: None taken for -1.

Expected message: sums over the last dimension only when dim is None
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    return kept.sum(dim=-1 if dim is None else dim) / normalize_constant
