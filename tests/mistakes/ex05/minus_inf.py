"""Slip: a forbidden token.

Expected message: right but for a forbidden token
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    return -(log_p.exp() * log_p).sum(dim=-1)
