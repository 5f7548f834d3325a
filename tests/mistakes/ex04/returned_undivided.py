"""Slip: the undivided loss returned.

Expected message: the gradient is right, but the returned loss is not divided
"""

from __future__ import annotations


def sft_microbatch_train_step(policy_log_probs, response_mask, gradient_accumulation_steps, normalize_constant=1.0):
    mask = response_mask.float()
    nll = -(policy_log_probs * mask).sum(dim=1) / normalize_constant
    loss = nll.mean() / gradient_accumulation_steps
    loss.backward()
    return nll.mean().detach(), {"tokens": mask.sum()}
