"""Slip: mean over padding.

Expected message: takes the mean over all positions
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    if dim is None:
        return kept.mean() / normalize_constant
    return kept.mean(dim=dim) / normalize_constant
