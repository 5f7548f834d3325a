"""ex15, solved plainly. The task and its contract are in exercises/ex15_clipped_loss.py."""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(
    advantages: torch.Tensor, policy_log_probs: torch.Tensor, old_log_probs: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each token, and which of them are clipped."""
    ratio = torch.exp(policy_log_probs - old_log_probs)
    plain, clipped = ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    return -torch.minimum(plain, clipped), {"is_clipped": clipped < plain}
