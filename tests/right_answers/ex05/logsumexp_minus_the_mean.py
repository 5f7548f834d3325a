"""Logsumexp minus the mean logit, -inf replaced before the product."""

from __future__ import annotations

import torch


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    top = logits.amax(dim=-1, keepdim=True).detach()
    shifted = logits - top
    p = torch.softmax(shifted, dim=-1)
    finite = torch.where(p == 0, torch.zeros_like(shifted), shifted)
    return torch.logsumexp(shifted, dim=-1) - (p * finite).sum(dim=-1)
