"""Slip: sum of means.

Expected message: each microbatch is divided by its own tokens only
"""

from __future__ import annotations

import torch


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    return -(log_probs * response_mask).sum() / total_target_tokens


def accumulate_gradients(microbatches):
    total = 0
    for _, mask in microbatches:
        total += int(mask.sum())
    losses = []
    for log_probs, mask in microbatches:
        loss = token_mean_loss(log_probs, mask, max(1, int(mask.sum())))
        loss.backward()
        losses.append(loss.detach())
    return float(torch.stack(losses).sum())
