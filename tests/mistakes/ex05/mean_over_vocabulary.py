"""Slip: mean instead of sum.

Expected message: averages over the vocabulary
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    log_p = torch.log_softmax(logits, dim=-1).clamp(min=-1e30)
    return -(log_p.exp() * log_p).mean(dim=-1)
