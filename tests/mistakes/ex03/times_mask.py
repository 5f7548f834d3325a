"""Slip: multiplied by the mask.

Expected message: multiplies by the mask: nan * 0 is nan
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    return (tensor * mask).sum(dim=dim) / normalize_constant
