"""Mask as weights; the shares are summed and backward runs once."""

from __future__ import annotations

import torch


def token_mean_loss(log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int) -> torch.Tensor:
    return (log_probs * response_mask.to(log_probs.dtype)).sum().neg().div(total_target_tokens)


def accumulate_gradients(microbatches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total = int(torch.stack([mask.sum() for _, mask in microbatches]).sum())
    shares = [token_mean_loss(log_probs, mask, total) for log_probs, mask in microbatches]
    torch.autograd.backward(shares)
    return float(sum(share.detach() for share in shares))
