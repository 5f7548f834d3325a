"""Where, one backward a microbatch."""

from __future__ import annotations

import torch


def token_mean_loss(log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int) -> torch.Tensor:
    return -torch.where(response_mask, log_probs, 0.0).sum() / total_target_tokens


def accumulate_gradients(microbatches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total = sum(int(mask.sum()) for _, mask in microbatches)
    step_loss = 0.0
    for log_probs, mask in microbatches:
        loss = token_mean_loss(log_probs, mask, total)
        loss.backward()
        step_loss += loss.item()
    return step_loss
