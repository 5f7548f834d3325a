"""Slip: the constant forgotten.

Expected message: never divides by normalize_constant
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    return kept.sum(dim=dim)
