"""ex04, solved plainly. The task and its contract are in exercises/ex04_sft_microbatch_train_step.py."""

from __future__ import annotations

import torch


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and backward of one microbatch."""
    kept = torch.where(response_mask.bool(), -policy_log_probs, 0.0)  # [B, T]
    per_row = kept.sum(dim=-1) / normalize_constant  # [B]
    loss = per_row.mean() / gradient_accumulation_steps
    loss.backward()
    return loss.detach(), {}
