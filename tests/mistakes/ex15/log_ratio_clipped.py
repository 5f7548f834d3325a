"""Slip: the logarithm clipped.

Expected message: clips the *logarithm* of the ratio
"""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = (policy_log_probs - old_log_probs).exp()
    clipped = (policy_log_probs - old_log_probs).clamp(-cliprange, cliprange).exp()
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return loss, {"is_clipped": clipped * advantages < ratio * advantages}
