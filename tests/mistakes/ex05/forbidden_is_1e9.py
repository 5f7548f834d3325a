"""Slip: a finite number for -inf.

Expected message: -1e9 stands for -inf
"""

from __future__ import annotations

import torch


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    x = logits.masked_fill(logits == -torch.inf, -1e9)
    log_p = torch.log_softmax(x, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)
