"""The larger of two losses."""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    ratio = torch.exp(policy_log_probs - old_log_probs.detach())
    low, high = torch.tensor(1 - cliprange), torch.tensor(1 + cliprange)
    losses = -advantages * ratio, -advantages * torch.min(torch.max(ratio, low), high)
    return torch.max(*losses), {"is_clipped": losses[1] > losses[0], "ratio": ratio.detach().mean()}
