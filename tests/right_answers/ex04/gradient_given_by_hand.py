"""Gradient given by hand to policy_log_probs.backward."""

from __future__ import annotations

import torch


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scale = 1.0 / (len(policy_log_probs) * normalize_constant * gradient_accumulation_steps)
    gradient = response_mask.to(policy_log_probs) * -scale
    loss = (policy_log_probs.detach() * gradient).sum()
    policy_log_probs.backward(gradient=gradient)
    return loss, {"mean_log_prob": policy_log_probs.detach().mean()}
