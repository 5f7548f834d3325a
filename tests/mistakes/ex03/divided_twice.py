"""Slip: divided by the count as well.

Expected message: divides by the constant and by the number of unmasked elements too
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    mean = kept.sum(dim=dim) / mask.bool().sum(dim=dim)
    return mean / normalize_constant
