"""Slip: under no_grad.

Expected message: the result has no graph, so it can't be trained on
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    with torch.no_grad():
        log_p = torch.log_softmax(logits, dim=-1)
        return -(log_p.exp() * log_p.clamp(min=-1e30)).sum(dim=-1)
