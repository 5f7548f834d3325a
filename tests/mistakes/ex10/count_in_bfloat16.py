"""Slip: targets counted in bfloat16.

Expected message: counts are whole, at any size
"""

from __future__ import annotations

import torch


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    return -(response_mask * log_probs).sum() / total_target_tokens


def accumulate_gradients(microbatches):
    total = sum(m.to(torch.bfloat16).sum() for _, m in microbatches).item()
    step = 0.0
    for log_probs, mask in microbatches:
        loss = token_mean_loss(log_probs, mask, total)
        loss.backward()
        step += loss.item()
    return step
