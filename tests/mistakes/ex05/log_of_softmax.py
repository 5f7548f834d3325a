"""Slip: log of softmax.

Expected message: log(softmax) is -inf where a probability underflows
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    p = torch.softmax(logits, dim=-1)
    return -(p * torch.log(p)).sum(dim=-1)
