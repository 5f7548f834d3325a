"""Slip: the microbatch's own tokens.

Expected message: divides by the microbatch's own tokens, not by those
"""

from __future__ import annotations

import torch


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    return -(log_probs * response_mask).sum() / response_mask.sum()


def accumulate_gradients(microbatches):
    total = 0
    for _, mask in microbatches:
        total += int(mask.sum())
    losses = []
    for log_probs, mask in microbatches:
        loss = token_mean_loss(log_probs, mask, total)
        loss.backward()
        losses.append(loss.detach())
    return float(torch.stack(losses).sum())
