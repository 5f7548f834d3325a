"""Slip: log(p + 1e-8).

Expected message: log(p + epsilon) shifts every entropy a little
"""

from __future__ import annotations

import torch


def compute_entropy(logits):
    p = torch.softmax(logits, dim=-1)
    return -(p * torch.log(p + 1e-8)).sum(dim=-1)
