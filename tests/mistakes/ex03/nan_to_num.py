"""Slip: nan and infinity replaced everywhere.

Expected message: replaces nan and infinity everywhere
"""

from __future__ import annotations

import torch


def masked_normalize(tensor, mask, normalize_constant, dim=None):
    return torch.nan_to_num(tensor * mask).sum(dim=dim) / normalize_constant
