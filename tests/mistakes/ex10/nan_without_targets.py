"""Slip: 0 / 0 in a microbatch without targets.

Expected message: no target here: its share is 0, not nan
"""

from __future__ import annotations

import torch


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    mean = -(log_probs * response_mask).sum() / response_mask.sum()
    return mean * response_mask.sum() / total_target_tokens


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
