"""Slip: outside the range is clipped.

Expected message: is_clipped marks every ratio outside the range
"""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = (policy_log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return loss, {"is_clipped": (ratio < 1 - cliprange) | (ratio > 1 + cliprange)}
