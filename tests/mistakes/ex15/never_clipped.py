"""Slip: the ratio alone.

Expected message: nothing is clipped
"""

from __future__ import annotations


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = (policy_log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = -ratio * advantages
    return loss, {"is_clipped": clipped * advantages < ratio * advantages}
