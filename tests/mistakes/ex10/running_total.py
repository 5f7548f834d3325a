"""Slip: tokens counted as they come.

Expected message: the divisor is the tokens seen so far
"""

from __future__ import annotations

import torch


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    return -(log_probs * response_mask).sum() / total_target_tokens


def accumulate_gradients(microbatches):
    total = 0
    losses = []
    for log_probs, mask in microbatches:
        total += int(mask.sum())
        loss = token_mean_loss(log_probs, mask, total)
        loss.backward()
        losses.append(loss.detach())
    return float(torch.stack(losses).sum())
