"""The masked loss: as the CS336 handout normalises it, and as the course trains.

The two differ in the weight of one token. Of two responses of 2 and 8 tokens, in one microbatch each, the handout's
``sft_microbatch_train_step`` gives every token the weight 1/2, ``token_mean_loss`` 1/10, however the step is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.errors import ConfigError
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.model.chunked_head import one_pass_loss
from cs336_sft.model.output_head import OutputHead, run_to_head
from cs336_sft.records import Batch


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    """Sum the unmasked elements along ``dim`` and divide by a constant (CS336).

    ``mask`` has the tensor's shape, bool or 0/1. ``dim=None`` sums over everything. Fully masked gives 0, gradient 0.
    Raises ConfigError: the shapes differ.

    >>> masked_normalize(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), torch.tensor([[1, 1], [1, 0]]), 2.0, dim=1)
    tensor([1.5000, 1.5000])
    """
    return _mask_out(tensor, mask).sum(dim=dim) / normalize_constant


def masked_mean(tensor: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Average the unmasked elements along ``dim`` (CS336).

    Fully masked gives nan, as sum / count does, with gradient 0. In a loss, where such a row should weigh nothing, use
    ``masked_normalize``.
    Raises ConfigError: the shapes differ.

    >>> masked_mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[1, 1], [0, 0]]), dim=1)
    tensor([2., nan])
    """
    return _mask_out(tensor, mask).sum(dim=dim) / mask.bool().sum(dim=dim)


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute the handout's loss of one microbatch and call ``backward`` (CS336).

    ``loss = mean_b(-sum_t mask[b, t] * log_probs[b, t] / normalize_constant) / gradient_accumulation_steps``

    Returns ``(loss, metadata)``: the detached scalar, ``response_tokens`` and their ``mean_token_nll`` in nats.
    Raises ConfigError: the shapes differ or are not ``[B, T]``, or a divisor is not positive.

    >>> log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]], requires_grad=True)
    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> loss, metadata = sft_microbatch_train_step(log_probs, mask, gradient_accumulation_steps=2)
    >>> loss.item(), metadata["mean_token_nll"].item()  # ((1 + 2) + 3) / 2 / 2, and (1 + 2 + 3) / 3
    (1.5, 2.0)
    """
    if policy_log_probs.dim() != 2:
        raise ConfigError(f"policy_log_probs has shape {tuple(policy_log_probs.shape)}", "give [batch, time]")
    if gradient_accumulation_steps < 1:
        raise ConfigError(f"gradient_accumulation_steps is {gradient_accumulation_steps}", "give at least 1")
    if not normalize_constant > 0:
        raise ConfigError(f"normalize_constant is {normalize_constant}", "give a positive number")
    per_sequence = masked_normalize(-policy_log_probs, response_mask, normalize_constant, dim=-1)  # [B]
    loss = per_sequence.mean() / gradient_accumulation_steps
    loss.backward()
    metadata = {
        "response_tokens": response_mask.bool().sum(),
        "mean_token_nll": masked_mean(-policy_log_probs.detach(), response_mask),  # nan without response tokens
    }
    return loss.detach(), metadata


def token_mean_loss(
    log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int | torch.Tensor
) -> torch.Tensor:
    """Compute the course's loss: ``-sum(mask * log_probs) / total_target_tokens``.

    The divisor counts the target tokens of the whole optimizer step, over all its microbatches (and processes). The
    microbatches' losses then add up to the step's mean NLL per token, and their gradients to that of one big batch.
    So call ``backward`` without dividing by the number of microbatches. Shapes ``[B, T]``; a scalar in nats.
    Raises ConfigError: the shapes differ, or the total is below 1.

    >>> short, long = torch.full((1, 2), -3.0), torch.full((1, 8), -0.5)
    >>> losses = [token_mean_loss(x, torch.ones_like(x), total_target_tokens=10) for x in (short, long)]
    >>> sum(losses).item()  # (2 * 3 + 8 * 0.5) / 10
    1.0
    """
    if total_target_tokens < 1:
        problem = f"total_target_tokens is {int(total_target_tokens)}"
        raise ConfigError(problem, "skip an optimizer step that has no target token")
    return masked_normalize(-log_probs, response_mask, total_target_tokens)


def plain_sft_loss(model: torch.nn.Module, batch: Batch, divisor: float) -> torch.Tensor:
    """Compute the loss of one microbatch step by step, for reading.

    ``batch`` holds ``[B, T]`` tensors, ``divisor`` the target tokens of the whole step. Returns a scalar in nats.
    """
    log_probs = get_response_log_probs(model, batch.input_ids, batch.labels)["log_probs"]  # [B, T]
    return token_mean_loss(log_probs, batch.response_mask, divisor)


def run_to_response(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, OutputHead]:
    """Return the hidden states ``[N, H]`` of N response tokens, and the output head."""
    # No attention mask: padding is on the right, so causal attention never looks at it.
    hidden, head = run_to_head(model, {"input_ids": batch.input_ids})  # [B, T, H]
    # The mask is on the CPU still: to count on a GPU would wait for all work in progress.
    positions = batch.response_mask.flatten().nonzero().squeeze(-1)  # [N]
    return hidden.flatten(0, 1).index_select(0, positions.to(hidden.device, non_blocking=True)), head


def sft_loss(
    model: torch.nn.Module, batch: Batch, divisor: float, forward: Callable[..., Any] = run_to_response
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the loss that the course trains with, on one microbatch.

    Equal to ``plain_sft_loss`` in value and gradient, but the output head runs on the response positions only, a few
    hundred at a time, and its gradients are made in the forward pass. ``forward``: ``run_to_response`` or a faster one.
    Returns ``(loss, log_probs)``: a scalar for one ``backward``, and ``[N]`` nats of the N response tokens, detached.
    """
    hidden, head = forward(model, batch)  # [N, H]
    labels = batch.labels[batch.response_mask]  # [N]
    loss, log_probs, *_ = one_pass_loss(hidden, head, labels, 1.0 / divisor)
    return loss, log_probs


def _mask_out(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # Broadcasting would hide a mask that was not shifted or sliced along with the labels.
    if tensor.shape != mask.shape:
        shapes = f"the mask has shape {tuple(mask.shape)}, the tensor {tuple(tensor.shape)}"
        raise ConfigError(shapes, "give both the same shape")
    return torch.where(mask.bool(), tensor, 0.0)  # not `mask * tensor`: nan * 0 is nan
