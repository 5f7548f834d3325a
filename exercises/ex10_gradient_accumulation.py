"""ex10. Gradient accumulation in which every token weighs the same.

Topic: loss. Difficulty 3 of 5, about 25 minutes. Taught in notebook 02_masked_loss.
Check it with `cs336-sft check ex10`; stuck? `cs336-sft hint ex10`.

token_mean_loss(log_probs, response_mask, total_target_tokens) -> scalar tensor
    log_probs, response_mask   [B, T] of one microbatch (the mask is bool); it may have no target at all
    total_target_tokens        how many target tokens the *whole optimizer step* has
    returns                    -sum(mask * log_probs) / total_target_tokens, differentiable

accumulate_gradients(microbatches) -> float
    microbatches   a list of (log_probs, response_mask) pairs, one optimizer step, with at least one target in all
    does           backward on each microbatch's share, so that the gradients add up to those of one big batch (and to
                   what stands in .grad already)
    returns        the step's loss: the mean negative log-likelihood of its target tokens; the list stays as it is

By hand, two microbatches of one row:
    log_probs  -3 -3 -8 -8               mask  x x . .       loss = (2 * 3 + 4 * 0.5) / 6 = 1.3333
               -0.5 -0.5 -0.5 -0.5             x x x x       gradient: -1/6 on each of the six marked entries
A mean of the two means would give (3 + 0.5) / 2 = 1.75, and weigh a token of the first twice as much as one of the
second.
"""

from __future__ import annotations

import torch


def token_mean_loss(log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int) -> torch.Tensor:
    """One microbatch's share of the step's loss."""
    raise NotImplementedError


def accumulate_gradients(microbatches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Backward over all microbatches of one step; returns the step's loss."""
    raise NotImplementedError
