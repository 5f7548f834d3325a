"""Cases by the sign of the advantage."""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = torch.exp(policy_log_probs) / torch.exp(old_log_probs)
    positive, negative = advantages > 0, advantages < 0
    clipped = (positive & (ratio > 1 + cliprange)) | (negative & (ratio < 1 - cliprange))
    bound = torch.where(positive, torch.full_like(ratio, 1 + cliprange), torch.full_like(ratio, 1 - cliprange))
    return -advantages * torch.where(clipped, bound, ratio), {"is_clipped": clipped}
