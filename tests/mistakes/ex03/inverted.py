"""Slip: masked_fill with the mask the wrong way round.

Expected message: the mask is the wrong way round
"""

from __future__ import annotations


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    return tensor.masked_fill(mask.bool(), 0.0).sum(dim=dim) / normalize_constant
