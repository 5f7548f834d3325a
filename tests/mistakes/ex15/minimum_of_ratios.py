"""Slip: the minimum before the product.

Expected message: takes the smaller ratio before the product
"""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = (policy_log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange)
    loss = -torch.minimum(ratio, clipped) * advantages
    return loss, {"is_clipped": clipped * advantages < ratio * advantages}
