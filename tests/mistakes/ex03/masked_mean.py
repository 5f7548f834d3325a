"""Slip: masked_mean instead.

Expected message: that is masked_mean
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    return kept.sum(dim=dim) / mask.bool().sum(dim=dim)
