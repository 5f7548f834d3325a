"""Autograd.Function."""

from __future__ import annotations

import torch


class _SFT(torch.autograd.Function):
    @staticmethod
    def forward(ctx, log_probs, mask, scale):
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return -(log_probs * mask).sum() * scale

    @staticmethod
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return -grad * ctx.scale * mask, None, None


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    scale = 1 / normalize_constant / gradient_accumulation_steps / policy_log_probs.size(0)
    loss = _SFT.apply(policy_log_probs, response_mask.type_as(policy_log_probs), scale)
    loss.backward()
    return loss.detach(), {"rows": torch.tensor(policy_log_probs.size(0))}
