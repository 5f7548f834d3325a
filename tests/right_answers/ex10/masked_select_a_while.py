"""Masked_select, a while loop."""

from __future__ import annotations

import torch


def token_mean_loss(log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int) -> torch.Tensor:
    chosen = torch.masked_select(log_probs, response_mask)
    return -chosen.sum() / total_target_tokens


def accumulate_gradients(microbatches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total, i, losses = 0, 0, []
    for pair in microbatches:
        total += sum(sum(row) for row in pair[1].tolist())
    while i < len(microbatches):
        share = token_mean_loss(microbatches[i][0], microbatches[i][1], total)
        share.backward()
        losses.append(float(share.detach()))
        i += 1
    return sum(losses)
