"""Slip: log2.

Expected message: the entropy is in bits
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    log_p = torch.log_softmax(logits, dim=-1)
    finite = log_p.clamp(min=-1e30)
    return -(log_p.exp() * finite / torch.log(torch.tensor(2.0))).sum(dim=-1)
