"""Gradients handed to backward, no loss graph."""

from __future__ import annotations

import torch


def token_mean_loss(log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int) -> torch.Tensor:
    total = torch.zeros((), dtype=log_probs.dtype)
    for row, keep in zip(log_probs, response_mask):
        total = total - torch.dot(row, keep.to(row.dtype))
    return total / total_target_tokens


def accumulate_gradients(microbatches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total = sum(mask.count_nonzero().item() for _, mask in microbatches)
    nll = 0.0
    for log_probs, mask in microbatches:
        log_probs.backward(gradient=-mask.to(log_probs.dtype) / total)
        nll -= log_probs.detach()[mask].double().sum().item()
    return nll / total
