"""Slip: counts what is not 0, but a sure target has log-probability 0.

Expected message: a target of log-probability 0 is not counted
"""

from __future__ import annotations


def token_mean_loss(log_probs, response_mask, total_target_tokens):
    return -(response_mask * log_probs).sum() / total_target_tokens


def accumulate_gradients(microbatches):
    total = sum(int(((m * lp) != 0).sum()) for lp, m in microbatches)
    step = 0.0
    for log_probs, mask in microbatches:
        loss = token_mean_loss(log_probs, mask, total)
        loss.backward()
        step += loss.item()
    return step
