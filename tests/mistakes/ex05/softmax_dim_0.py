"""Slip: softmax over the rows.

Expected message: the softmax runs over dimension 0
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    p = torch.softmax(logits, dim=0)
    return -(p * p.log()).sum(dim=-1)
