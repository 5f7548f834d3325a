"""Slip: the sum without dim.

Expected message: sums over all positions
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    log_p = torch.log_softmax(logits, dim=-1).clamp(min=-1e30)
    return -(log_p.exp() * log_p).sum()
