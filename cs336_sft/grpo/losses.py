"""Policy gradient losses, token by token, and what averages them; all in nats, to be minimised.

An answer with a positive advantage is to become more probable: the loss of a token is minus its advantage times its
log-probability, or times the factor by which its probability has changed since the answer was sampled.
"""

from __future__ import annotations

import torch

from cs336_sft.errors import ConfigError
from cs336_sft.grpo.config import LossType
from cs336_sft.losses import masked_mean, masked_normalize

Metadata = dict[str, torch.Tensor]


def compute_naive_policy_gradient_loss(
    raw_rewards_or_advantages: torch.Tensor, policy_log_probs: torch.Tensor
) -> torch.Tensor:
    """Compute REINFORCE's loss of each token, ``-A * log p`` (CS336).

    ``raw_rewards_or_advantages`` is ``[B, 1]``, one of each answer for all its tokens; the rest is ``[B, T]``.
    Raises ConfigError: other shapes.

    >>> compute_naive_policy_gradient_loss(torch.tensor([[2.0], [-1.0]]), torch.tensor([[-1.0, -0.5], [-3.0, 0.0]]))
    tensor([[ 2.,  1.],
            [-3.,  0.]])
    """
    _check(policy_log_probs, raw_rewards_or_advantages=raw_rewards_or_advantages)
    return -raw_rewards_or_advantages * policy_log_probs


def compute_grpo_clip_loss(
    advantages: torch.Tensor, policy_log_probs: torch.Tensor, old_log_probs: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, Metadata]:
    """Compute GRPO's clipped loss of each token (CS336).

    ``-min(r A, clip(r, 1 - c, 1 + c) A)``, where ``r = p / p_old`` and ``p_old`` is of the policy that sampled. A token
    whose probability has moved by ``c`` in the direction of its advantage gets no gradient. ``advantages`` is
    ``[B, 1]``, the rest ``[B, T]``.
    Returns the loss and ``{"ratio": r, "is_clipped": bool}``, all ``[B, T]``. Raises ConfigError: shapes, cliprange.

    >>> old = torch.log(torch.tensor([[0.5, 0.5]]))
    >>> loss, metadata = compute_grpo_clip_loss(torch.ones(1, 1), torch.log(torch.tensor([[0.8, 0.4]])), old, 0.2)
    >>> loss, metadata["is_clipped"]
    (tensor([[-1.2000, -0.8000]]), tensor([[ True, False]]))
    """
    _check(policy_log_probs, advantages=advantages)
    _check_tokens(policy_log_probs, old_log_probs=old_log_probs)
    if not cliprange > 0:
        raise ConfigError(f"cliprange is {cliprange}", "give a positive number, such as 0.2")
    ratio = torch.exp(policy_log_probs - old_log_probs.detach())  # [B, T]
    plain, clipped = ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages
    return -torch.minimum(plain, clipped), {"ratio": ratio.detach(), "is_clipped": clipped.detach() < plain.detach()}


def compute_policy_gradient_loss(
    policy_log_probs: torch.Tensor,
    loss_type: LossType,
    raw_rewards: torch.Tensor | None = None,
    advantages: torch.Tensor | None = None,
    old_log_probs: torch.Tensor | None = None,
    cliprange: float | None = None,
) -> tuple[torch.Tensor, Metadata]:
    """Compute one of three losses of each token, ``[B, T]`` (CS336).

    ``no_baseline`` needs ``raw_rewards`` ``[B, 1]``, ``reinforce_with_baseline`` needs ``advantages`` ``[B, 1]``, and
    ``grpo_clip`` also ``old_log_probs`` and ``cliprange``. Raises ConfigError: one of them is missing.

    >>> log_probs = torch.tensor([[-1.0, -2.0]])
    >>> compute_policy_gradient_loss(log_probs, "no_baseline", raw_rewards=torch.tensor([[0.5]]))
    (tensor([[0.5000, 1.0000]]), {})
    """
    given = {
        "raw_rewards": raw_rewards,
        "advantages": advantages,
        "old_log_probs": old_log_probs,
        "cliprange": cliprange,
    }
    needs = {
        "no_baseline": ("raw_rewards",),
        "reinforce_with_baseline": ("advantages",),
        "grpo_clip": ("advantages", "old_log_probs", "cliprange"),
    }
    if loss_type not in needs:
        raise ConfigError(f"loss_type is {loss_type!r}", f"give one of {', '.join(needs)}")
    if missing := [name for name in needs[loss_type] if given[name] is None]:
        raise ConfigError(f"loss_type {loss_type!r} without {missing[0]}", f"give {' and '.join(needs[loss_type])}")
    if loss_type == "grpo_clip":
        return compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange)
    weights = raw_rewards if loss_type == "no_baseline" else advantages
    return compute_naive_policy_gradient_loss(weights, policy_log_probs), {}


def grpo_microbatch_train_step(
    policy_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    gradient_accumulation_steps: int,
    loss_type: LossType,
    raw_rewards: torch.Tensor | None = None,
    advantages: torch.Tensor | None = None,
    old_log_probs: torch.Tensor | None = None,
    cliprange: float | None = None,
    constant_normalize_factor: float | None = None,
) -> tuple[torch.Tensor, Metadata]:
    """Compute a microbatch's loss and call ``backward`` (CS336).

    Each answer's loss is the mean over its tokens, so a token of a long answer weighs less than one of a short; with
    ``constant_normalize_factor`` it is the sum divided by that (Dr. GRPO), and all tokens weigh the same. The loss is
    the mean over answers divided by ``gradient_accumulation_steps``. An answer without tokens counts 0.
    Returns ``(loss, metadata)``, detached, with ``clip_fraction`` of the response tokens for ``grpo_clip``.

    >>> log_probs = torch.tensor([[-1.0, -2.0], [-4.0, 0.0]], requires_grad=True)
    >>> mask, advantages = torch.tensor([[True, True], [True, False]]), torch.tensor([[1.0], [-1.0]])
    >>> grpo_microbatch_train_step(log_probs, mask, 1, "reinforce_with_baseline", advantages=advantages)[0]
    tensor(-1.2500)
    """
    if gradient_accumulation_steps < 1:
        raise ConfigError(f"gradient_accumulation_steps is {gradient_accumulation_steps}", "give at least 1")
    if constant_normalize_factor is not None and not constant_normalize_factor > 0:
        raise ConfigError(f"constant_normalize_factor is {constant_normalize_factor}", "give a positive number")
    _check_tokens(policy_log_probs, response_mask=response_mask, old_log_probs=old_log_probs)
    mask = response_mask.bool()
    # Before the loss: what stands outside of the responses could be infinite, and 0 * inf is nan in a gradient.
    policy_log_probs = torch.where(mask, policy_log_probs, 0.0)
    per_token, metadata = compute_policy_gradient_loss(
        policy_log_probs, loss_type, raw_rewards, advantages, old_log_probs, cliprange
    )  # [B, T]
    lengths = mask.sum(dim=1).clamp(min=1)  # [B]
    per_answer = masked_normalize(per_token, mask, 1.0, dim=1) / (constant_normalize_factor or lengths)
    loss = per_answer.mean() / gradient_accumulation_steps
    loss.backward()
    if "is_clipped" in metadata:
        metadata["clip_fraction"] = masked_mean(metadata["is_clipped"].float(), mask)
    return loss.detach(), metadata


def _check(policy_log_probs: torch.Tensor, **of_answers: torch.Tensor) -> None:
    # [B] would broadcast over the tokens where B equals T, and give each token another answer's advantage.
    [(name, values)] = of_answers.items()
    if policy_log_probs.dim() != 2 or values.shape != (len(policy_log_probs), 1):
        shapes = f"{name} has shape {tuple(values.shape)}, policy_log_probs {tuple(policy_log_probs.shape)}"
        raise ConfigError(shapes, "give [batch, 1] and [batch, time]")


def _check_tokens(policy_log_probs: torch.Tensor, **of_tokens: torch.Tensor | None) -> None:
    for name, values in of_tokens.items():
        if values is not None and values.shape != policy_log_probs.shape:
            shapes = f"{name} has shape {tuple(values.shape)}, policy_log_probs {tuple(policy_log_probs.shape)}"
            raise ConfigError(shapes, "give both the same shape")
