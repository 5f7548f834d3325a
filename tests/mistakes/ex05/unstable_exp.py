"""Slip: exp of raw logits.

Expected message: exp of the raw logits overflows
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    e = torch.exp(logits)
    p = e / e.sum(dim=-1, keepdim=True)
    return -(p * torch.log(p)).sum(dim=-1)
