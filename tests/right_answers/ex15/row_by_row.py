"""Row by row, token by token."""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange):
    losses, marks = [], []
    for advantage, new, old in zip(advantages.squeeze(1), policy_log_probs, old_log_probs, strict=True):
        for log_ratio in new - old:
            plain = log_ratio.exp() * advantage
            clipped = torch.clip(log_ratio.exp(), 1 - cliprange, 1 + cliprange) * advantage
            losses.append(plain if plain <= clipped else clipped)
            marks.append(bool(clipped < plain))
    shape = policy_log_probs.shape
    return -torch.stack(losses).reshape(shape), {"is_clipped": torch.tensor(marks).reshape(shape)}
