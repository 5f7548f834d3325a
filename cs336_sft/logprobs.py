"""Log-probabilities of the labels and entropies of the next-token distributions, both in nats.

Written plainly: one log-softmax over ``[B, T, V]``, from which both are read. Logits in half precision are first
brought to float32; bfloat16 has 8 bits of mantissa, so near -20 a log-probability would be off by up to 0.06.
"""

from __future__ import annotations

import torch

from cs336_sft.errors import ConfigError


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the distribution that each row of logits stands for, ``-sum_v p_v log p_v`` (CS336 handout).

    Stable: logits of any finite size neither overflow nor lose the small probabilities, and an entry of -inf (a
    forbidden token) has probability 0 and adds 0, in the value and in the gradient, which is
    ``-p_v (log p_v + entropy)``. Differentiable.

    Args:
        logits: ``[..., V]``, floating point, unnormalised. A row that is -inf throughout has no distribution: nan.

    Returns:
        ``[...]``, in nats; float32, or float64 for float64 logits.

    >>> compute_entropy(torch.tensor([[0.0, 0.0], [1e4, -1e4], [3.0, float("-inf")]]))
    tensor([0.6931, 0.0000, 0.0000])
    """
    return _entropy(torch.log_softmax(_at_least_float32(logits), dim=-1))


def get_response_log_probs(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    return_token_entropy: bool = False,
    *,
    attention_mask: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Log-probability of every label given what stands before it (CS336 handout).

    Nothing is masked here: prompt and padding positions have values too, which the loss leaves out.

    Args:
        model: a causal language model: ``model(input_ids).logits`` is ``[B, T, V]``.
        input_ids: int64 ``[B, T]``, padded on the right. Then no attention mask is needed: a real token looks only
            to its left, where there is no padding.
        labels: int64 ``[B, T]``: ``labels[b, t]`` is what position ``t`` must predict.
        return_token_entropy: also give the entropy of each position's next-token distribution.
        attention_mask: ``[B, T]``, True (or 1) on real tokens; needed only for padding on the left.

    Returns:
        ``log_probs``, ``[B, T]`` in nats, float32 or wider, differentiable. With ``return_token_entropy`` also
        ``token_entropy``, ``[B, T]`` in nats, without a graph: it is there to be logged, and keeping a graph for it
        would hold two more tensors of ``[B, T, V]`` until the backward. To train on an entropy use
        ``compute_entropy``.

    Raises:
        ConfigError: the shapes of ``input_ids`` and ``labels`` differ.

    >>> from types import SimpleNamespace
    >>> def model(input_ids):  # knows two tokens, and the second is three times as likely
    ...     logits = torch.tensor([1.0, 3.0]).log().expand(*input_ids.shape, 2)
    ...     return SimpleNamespace(logits=logits)
    >>> ids = torch.tensor([[0, 1, 1]])
    >>> result = get_response_log_probs(model, ids[:, :-1], ids[:, 1:], return_token_entropy=True)
    >>> result["log_probs"].exp()
    tensor([[0.7500, 0.7500]])
    >>> result["token_entropy"]
    tensor([[0.5623, 0.5623]])
    """
    if input_ids.shape != labels.shape:
        raise ConfigError(
            f"input_ids has shape {tuple(input_ids.shape)}, labels {tuple(labels.shape)}",
            "give the two that tokenize_prompt_and_output made together",
        )
    masks = {} if attention_mask is None else {"attention_mask": attention_mask.long()}
    logits = model(input_ids, **masks).logits  # [B, T, V]
    log_softmax = torch.log_softmax(_at_least_float32(logits), dim=-1)  # [B, T, V], kept for the backward
    del logits
    # Not `logit - logsumexp`: at logits of 1e4 that difference of large numbers is off by 1e-3 in float32.
    result = {"log_probs": log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1)}  # [B, T]
    if return_token_entropy:
        with torch.no_grad():
            result["token_entropy"] = _entropy(log_softmax)  # [B, T]
    return result


def _entropy(log_softmax: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of ``[..., V]`` log-probabilities. 0 * -inf must be 0, so the -inf are set to 0 first."""
    finite = log_softmax.masked_fill(log_softmax == float("-inf"), 0.0)
    return 0.0 - (log_softmax.exp() * finite).sum(dim=-1)  # a plain minus would print an entropy of -0


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
