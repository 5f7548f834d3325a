"""Autograd.Function with the gradient by hand."""

from __future__ import annotations

import torch


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, advantages, policy, old, cliprange):
        ratio = (policy - old).exp()
        plain, clipped = ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
        marks = clipped < plain
        ctx.save_for_backward(plain, marks)
        return -torch.where(marks, clipped, plain), marks

    @staticmethod
    def backward(ctx, grad, _):
        plain, marks = ctx.saved_tensors
        return None, -grad * plain.masked_fill(marks, 0.0), None, None


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    loss, marks = _Clip.apply(advantages, policy_log_probs, old_log_probs, cliprange)
    return loss, {"is_clipped": marks}
