"""Slip: clipped without the minimum.

Expected message: takes the clipped product alone
"""

from __future__ import annotations


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = (policy_log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = -clipped * advantages
    return loss, {"is_clipped": clipped * advantages < ratio * advantages}
