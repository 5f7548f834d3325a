"""Slip: the minus forgotten.

Expected message: the sign is flipped
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    log_p = torch.log_softmax(logits, dim=-1).clamp(min=-1e30)
    return (log_p.exp() * log_p).sum(dim=-1)
