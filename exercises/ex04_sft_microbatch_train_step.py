"""ex04. One microbatch of supervised fine-tuning: loss and backward.

Topic: loss. Difficulty 2 of 5, about 20 minutes. Taught in notebook 02_masked_loss.
Check it with `cs336-sft check ex04`; stuck? `cs336-sft hint ex04`.

sft_microbatch_train_step(policy_log_probs, response_mask, gradient_accumulation_steps, normalize_constant=1.0)
    policy_log_probs             [B, T], log-probability of each label in nats, with a graph
    response_mask                [B, T], true (or 1) on response tokens
    gradient_accumulation_steps  microbatches to an optimizer step
    normalize_constant           what each row's sum is divided by
    returns                      (loss, metadata): a scalar tensor, and a dict of your choice (it may be empty)

    row[b] = -sum_t mask[b, t] * log_probs[b, t] / normalize_constant
    loss = mean of row over b / gradient_accumulation_steps

The step calls backward itself, once; the returned loss is the divided one. A row that is all masked adds 0 and
counts as a row. Gradients that stand there already stay: microbatches add up.

By hand, 2 accumulation steps, constant 1:
    log_probs  -1 -2 -9 -7     mask  x x . .     ((1 + 2) + 3) / 2 rows / 2 steps = 1.5
               -3 -9 -4 -2           x . . .     gradient: -1/4 on the three marked entries, 0 elsewhere
"""

from __future__ import annotations

import torch


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and backward of one microbatch."""
    raise NotImplementedError
