"""ex15. The clipped policy-gradient loss of each token.

Topic: policy gradients. Difficulty 3 of 5, about 25 minutes. Taught in notebook 09_expert_iteration.
Check it with `cs336-sft check ex15`; stuck? `cs336-sft hint ex15`.

compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange)
    advantages        [B, 1], one of each answer for all its tokens
    policy_log_probs  [B, T], log-probability of each token in nats under the present policy, with a graph
    old_log_probs     [B, T], the same under the policy that sampled the answers; no gradient goes there
    cliprange         c, for instance 0.2
    returns           (loss, metadata): [B, T], differentiable, and {"is_clipped": [B, T] of bool}

    r = p / p_old, a ratio of probabilities
    loss = -min(r * A, clip(r, 1 - c, 1 + c) * A)

is_clipped is true where the clipped product is smaller than the other. Nothing is averaged and nothing is masked here.

By hand, cliprange 0.2:
    A = 1    r  1.5  0.5      loss  -1.2  -0.5      clipped  yes  no
    A = -1   r  1.5  0.5      loss   1.5   0.8      clipped  no   yes
"""

from __future__ import annotations

import torch


def compute_grpo_clip_loss(
    advantages: torch.Tensor, policy_log_probs: torch.Tensor, old_log_probs: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of each token, and which of them are clipped."""
    raise NotImplementedError
