"""Slip: the mask forgotten.

Expected message: the mask is not used
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    return tensor.sum(dim=dim) / normalize_constant
