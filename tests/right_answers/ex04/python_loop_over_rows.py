"""Python loop over rows and tokens."""

from __future__ import annotations

import torch


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    row_losses = []
    for log_probs, mask in zip(policy_log_probs, response_mask):
        row = torch.zeros((), dtype=log_probs.dtype) + 0 * log_probs.sum()
        for value, marked in zip(log_probs, mask.tolist()):
            if marked:
                row = row - value
        row_losses.append(row / normalize_constant)
    loss = sum(row_losses) / len(row_losses) / gradient_accumulation_steps
    loss.backward()
    return loss, {}
