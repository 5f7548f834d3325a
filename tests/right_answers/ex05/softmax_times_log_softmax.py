"""Softmax times log_softmax clamped at -1e6."""

from __future__ import annotations

import torch


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(logits, dim=-1)
    log_p = torch.log_softmax(logits, dim=-1).clamp(min=-1e6)
    return (p * log_p).sum(dim=-1).neg()
