"""ex05, solved plainly. The task and its contract are in exercises/ex05_compute_entropy.py."""

from __future__ import annotations

import torch


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy over the last dimension, in nats."""
    log_p = torch.log_softmax(logits, dim=-1)
    finite = log_p.masked_fill(log_p == float("-inf"), 0.0)  # 0 * -inf would be nan
    return -(log_p.exp() * finite).sum(dim=-1)
