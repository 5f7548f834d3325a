"""Slip: dim forgotten.

Expected message: sums over everything although dim is given
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    kept = tensor.masked_fill(~mask.bool(), 0.0)
    return kept.sum() / normalize_constant
