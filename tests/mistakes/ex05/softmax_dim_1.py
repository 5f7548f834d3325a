"""Slip: softmax over time.

Expected message: the softmax runs over dimension 1
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    p = torch.softmax(logits, dim=1)
    return -(p * torch.log(p)).sum(-1)
