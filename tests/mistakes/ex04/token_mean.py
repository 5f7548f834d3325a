"""Slip: mean over response tokens.

Expected message: averages over the batch's response tokens
"""

from __future__ import annotations


def sft_microbatch_train_step(policy_log_probs, response_mask, gradient_accumulation_steps, normalize_constant=1.0):
    mask = response_mask.float()
    nll = -(policy_log_probs * mask).sum() / mask.sum() / normalize_constant
    loss = nll.mean() / gradient_accumulation_steps
    loss.backward()
    return loss.detach(), {"tokens": mask.sum()}
