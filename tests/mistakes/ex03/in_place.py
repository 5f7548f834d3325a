"""Slip: writes zeros into its argument.

Expected message: changes its argument number 1 in place
"""

from __future__ import annotations

import torch


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    with torch.no_grad():
        tensor[~mask.bool()] = 0.0
    return tensor.sum(dim=dim) / normalize_constant
