"""Slip: the mark inverted.

Expected message: is_clipped is inverted
"""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = (policy_log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return loss, {"is_clipped": clipped * advantages >= ratio * advantages}
