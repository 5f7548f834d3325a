"""Slip: takes the microbatches out of the caller's list.

Expected message: accumulate_gradients changes its argument number 1 in place
"""

from __future__ import annotations


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    return -(response_mask * log_probs).sum() / total_target_tokens


def accumulate_gradients(microbatches):
    total = sum(int(m.sum()) for _, m in microbatches)
    step = 0.0
    while microbatches:
        log_probs, mask = microbatches.pop(0)
        loss = token_mean_loss(log_probs, mask, total)
        loss.backward()
        step += loss.item()
    return step
