"""The mask as weights, one einsum."""

from __future__ import annotations

import torch


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    batch = policy_log_probs.shape[0]
    weights = response_mask.to(policy_log_probs.dtype)
    nll = -torch.einsum("bt,bt->", weights, policy_log_probs)
    loss = nll / (batch * normalize_constant * gradient_accumulation_steps)
    loss.backward()
    return loss, {"tokens": response_mask.sum()}
