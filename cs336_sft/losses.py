"""The masked loss, twice: normalised as the CS336 handout does, and as the course trains.

The two differ in what one token weighs. Take two responses of 2 and 8 tokens, in one microbatch each:

* ``sft_microbatch_train_step`` (handout) adds up each response, averages over the microbatch's sequences and then
  over the microbatches. With ``normalize_constant=1`` every token weighs 1/2, so the gradient grows with the length
  of the responses. It is the user who divides it by a typical length.
* Dividing each microbatch by its own number of tokens, as is often done, gives the tokens of the first response the
  weight 1/2 * 1/2 = 1/4 and those of the second 1/2 * 1/8 = 1/16: the same token counts four times as much if it
  happens to stand in a short microbatch, and the gradient depends on how the batch was cut up.
* ``token_weighted_loss`` (the course) divides by the 10 target tokens of the whole optimizer step: every token weighs
  1/10, however the step is cut into microbatches.

Masked positions never reach a result or a gradient, not even where they hold inf or nan (``torch.where``, since
``nan * 0`` is nan).
"""

from __future__ import annotations

import torch

from cs336_sft.errors import ConfigError


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    """Sum of the unmasked elements along ``dim``, divided by a constant (CS336 handout).

    Args:
        tensor: any shape, floating point.
        mask: the same shape; bool, or numbers of which 0 means masked.
        normalize_constant: the divisor.
        dim: the dimension to sum; None sums over all of them.

    Returns:
        ``tensor``'s shape without ``dim`` (a scalar for None). Where everything is masked it is 0, and so is the
        gradient.

    Raises:
        ConfigError: the shapes differ.

    >>> masked_normalize(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), torch.tensor([[1, 1], [1, 0]]), 2.0, dim=1)
    tensor([1.5000, 1.5000])
    """
    return _keep(tensor, mask).sum(dim=dim) / normalize_constant


def masked_mean(tensor: torch.Tensor, mask: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Mean of the unmasked elements along ``dim`` (CS336 handout).

    Where everything is masked there is no mean and the result is nan, as the handout's sum / count gives; the
    gradient is still 0 there. For a loss in which such a row should weigh nothing use ``masked_normalize``.

    Args:
        tensor: any shape, floating point.
        mask: the same shape; bool, or numbers of which 0 means masked.
        dim: the dimension to average; None averages over all unmasked elements.

    Returns:
        ``tensor``'s shape without ``dim`` (a scalar for None).

    Raises:
        ConfigError: the shapes differ.

    >>> masked_mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[1, 1], [0, 0]]), dim=1)
    tensor([2., nan])
    """
    return _keep(tensor, mask).sum(dim=dim) / mask.bool().sum(dim=dim)


def sft_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and ``backward`` of one microbatch, normalised as in the CS336 handout.

    ``loss = mean_b(-sum_t mask[b, t] * log_probs[b, t] / normalize_constant) / gradient_accumulation_steps``

    Not what the course trains with: see the head of this module and ``token_weighted_loss``.

    Args:
        policy_log_probs: ``[B, T]``, log-probability of each label in nats, with a graph to go back through.
        response_mask: ``[B, T]``, True on response tokens.
        gradient_accumulation_steps: microbatches to an optimizer step.
        normalize_constant: what each sequence's sum is divided by.

    Returns:
        ``(loss, metadata)``. ``loss`` is a scalar, divided as above, detached (its gradient is already in ``.grad``).
        ``metadata`` holds scalars: ``response_tokens``, how many were counted, and ``mean_token_nll``, their mean
        negative log-likelihood in nats (nan if there were none). A row that is all masked adds 0.

    Raises:
        ConfigError: the shapes differ or are not ``[B, T]``, or a divisor is not positive.

    >>> log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]], requires_grad=True)
    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> loss, metadata = sft_microbatch_train_step(log_probs, mask, gradient_accumulation_steps=2)
    >>> loss.item(), metadata["mean_token_nll"].item()  # ((1 + 2) + 3) / 2 / 2, and (1 + 2 + 3) / 3
    (1.5, 2.0)
    >>> log_probs.grad[mask], log_probs.grad[~mask].any().item()
    (tensor([-0.2500, -0.2500, -0.2500]), False)
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
        "mean_token_nll": masked_mean(-policy_log_probs.detach(), response_mask),
    }
    return loss.detach(), metadata


def token_weighted_loss(
    log_probs: torch.Tensor, response_mask: torch.Tensor, total_target_tokens: int | torch.Tensor
) -> torch.Tensor:
    """The course's training loss: ``-sum(mask * log_probs) / total_target_tokens``, one microbatch's share.

    The divisor is the number of target tokens of the *whole optimizer step*, the same for each of its microbatches.
    Summed over them the losses are the mean negative log-likelihood of the step's tokens, and the accumulated
    gradient is that of one big batch, whatever the lengths and however the step was cut. Of the handout's loss that
    is true only if all microbatches have the same number of sequences, and there a longer step weighs more: with two
    responses of 2 and 8 tokens this loss gives each token the weight 1/10, the handout's 1/2.

    Call ``backward`` on the result yourself, without dividing again by the number of microbatches. Data-parallel
    wrappers average gradients over processes: count the tokens of all processes and multiply by their number.

    Args:
        log_probs: ``[B, T]``, log-probability of each label in nats.
        response_mask: ``[B, T]``, True on response tokens.
        total_target_tokens: how many tokens the whole step counts, at least 1.

    Returns:
        A scalar in nats, with its graph; 0, with a zero gradient, for a microbatch without targets.

    Raises:
        ConfigError: the shapes differ, or the total is below 1.

    >>> short, long = torch.full((1, 2), -3.0), torch.full((1, 8), -0.5)
    >>> losses = [token_weighted_loss(x, torch.ones_like(x), total_target_tokens=10) for x in (short, long)]
    >>> sum(losses).item()  # (2 * 3 + 8 * 0.5) / 10
    1.0
    """
    if total_target_tokens < 1:
        raise ConfigError(
            f"total_target_tokens is {int(total_target_tokens)}", "skip an optimizer step that has no target token"
        )
    return masked_normalize(-log_probs, response_mask, total_target_tokens)


def _keep(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """``tensor`` with zeros where masked, in value and gradient, whatever stood there."""
    # Broadcasting would hide the usual slip, a mask that was not shifted or sliced along with the labels.
    if tensor.shape != mask.shape:
        raise ConfigError(
            f"the mask has shape {tuple(mask.shape)}, the tensor {tuple(tensor.shape)}", "give both the same shape"
        )
    return torch.where(mask.bool(), tensor, 0.0)
