"""Log-probabilities of the labels and entropies of the next-token distributions, both in nats.

Logits are computed in float32. In bfloat16, with 8 bits of mantissa, a log-probability near -20 would be off by up to
0.06.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from cs336_sft.errors import ConfigError
from cs336_sft.model.chunked_head import head_log_probs
from cs336_sft.model.output_head import find_head_module, run_to_head

_ENTROPY_CHUNK = 2**22  # logits that compute_entropy works on at a time: 16 MB in float32


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Compute the entropy of each row of logits, ``-sum_v p_v log p_v`` (CS336).

    ``logits`` is ``[..., V]``; the result ``[...]`` in nats, float32 or wider, differentiable. A few rows are
    computed at a time, so no softmax of the logits' size is made. A logit of -inf (a forbidden token) has probability 0
    and adds 0, also to the gradient ``-p_v (log p_v + entropy)``. All -inf gives nan.

    >>> compute_entropy(torch.tensor([[0.0, 0.0], [1e4, -1e4], [3.0, float("-inf")]]))
    tensor([0.6931, 0.0000, 0.0000])
    """
    rows = logits.reshape(-1, logits.shape[-1])  # [N, V]
    pieces = rows.split(max(1, _ENTROPY_CHUNK // rows.shape[-1]))
    # `checkpoint` keeps no softmax: the backward pass makes it again from the logits, which exist anyway.
    entropy = torch.cat([checkpoint(_entropy_of_logits, piece, use_reentrant=False) for piece in pieces])  # [N]
    return entropy.view(logits.shape[:-1])


def get_response_log_probs(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    return_token_entropy: bool = False,
    *,
    attention_mask: torch.Tensor | None = None,
    response_mask: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Compute the log-probability of every label given the tokens before it (CS336).

    All tensors are ``[B, T]``. ``log_probs`` is in nats and differentiable once; ``token_entropy``, if asked for, has
    no graph. ``attention_mask`` is needed only for padding on the left. With a ``response_mask`` the output head runs
    on its positions only, and the others get 0. The ``[B, T, V]`` logits are never made, unless the model names no
    output head (not a Hugging Face one). Raises ConfigError: the shapes differ, or unknown changes of the logits.

    >>> from types import SimpleNamespace
    >>> def model(input_ids):  # knows two tokens, and the second is three times as likely
    ...     logits = torch.tensor([1.0, 3.0]).log().expand(*input_ids.shape, 2)
    ...     return SimpleNamespace(logits=logits)
    >>> ids = torch.tensor([[0, 1, 1]])
    >>> get_response_log_probs(model, ids[:, :-1], ids[:, 1:])["log_probs"].exp()
    tensor([[0.7500, 0.7500]])
    """
    for name, tensor in (("labels", labels), ("response_mask", response_mask)):
        if tensor is not None and tensor.shape != input_ids.shape:
            raise ConfigError(
                f"input_ids has shape {tuple(input_ids.shape)}, {name} {tuple(tensor.shape)}",
                "give the tensors that tokenize_prompt_and_output made together",
            )
    masks = {} if attention_mask is None else {"attention_mask": attention_mask.long()}
    wanted = None if response_mask is None else response_mask.flatten().nonzero().squeeze(-1)  # [N], positions
    if find_head_module(model) is None:
        found = _from_logits(model(input_ids, **masks).logits, labels, return_token_entropy)
        if wanted is not None:
            found = [None if x is None else torch.where(response_mask.bool(), x, 0.0) for x in found]
    else:
        hidden, head = run_to_head(model, {"input_ids": input_ids, **masks})  # [B, T, H]
        hidden, targets = hidden.flatten(0, 1), labels.flatten()
        if wanted is not None:
            hidden, targets = hidden.index_select(0, wanted), targets[wanted]  # [N, H], [N]
        found = head_log_probs(hidden, head, targets, with_entropy=return_token_entropy)
        found = [None if x is None else _spread(x, wanted, labels.shape) for x in found]
    log_probs, entropy = found
    return {"log_probs": log_probs} if entropy is None else {"log_probs": log_probs, "token_entropy": entropy}


def chunked_log_probs(
    hidden: torch.Tensor, head_weight: torch.Tensor, labels: torch.Tensor, chunk_size: int
) -> dict[str, torch.Tensor]:
    """Compute log-probabilities and entropies with a chunked head, for reading.

    ``hidden`` is ``[..., H]``, ``head_weight`` ``[V, H]``, ``labels`` ``[...]``; results are ``[...]`` in nats, the
    entropies without a graph. ``checkpoint`` drops a chunk's logits after its forward pass and makes them again in the
    backward pass. Raises ConfigError: ``chunk_size`` is below 1, or the shapes do not match.

    >>> hidden, weight = torch.eye(3), torch.zeros(8, 3)
    >>> chunked_log_probs(hidden, weight, torch.tensor([0, 5, 7]), chunk_size=2)["log_probs"].exp()
    tensor([0.1250, 0.1250, 0.1250])
    """
    if chunk_size < 1:
        raise ConfigError(f"chunk_size is {chunk_size}", "give a whole number of at least 1")
    if hidden.shape[:-1] != labels.shape or hidden.shape[-1] != head_weight.shape[-1]:
        shapes = [tuple(tensor.shape) for tensor in (hidden, labels, head_weight)]
        raise ConfigError(f"hidden, labels and head_weight have shapes {shapes}", "give [..., H], [...] and [V, H]")

    def of_chunk(rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = _at_least_float32(rows) @ _at_least_float32(head_weight).T  # [chunk, V]
        log_softmax = logits.log_softmax(dim=-1)
        with torch.no_grad():
            entropy = _entropy(log_softmax)
        return log_softmax.gather(-1, targets[:, None])[:, 0], entropy

    pieces = zip(hidden.flatten(0, -2).split(chunk_size), labels.flatten().split(chunk_size), strict=True)
    found = [checkpoint(of_chunk, *piece, use_reentrant=False) for piece in pieces]
    log_probs, entropy = (torch.cat(part).view(labels.shape) for part in zip(*found, strict=True))
    return {"log_probs": log_probs, "token_entropy": entropy}


def _entropy_of_logits(logits: torch.Tensor) -> torch.Tensor:
    log_softmax = torch.log_softmax(_at_least_float32(logits), dim=-1)
    return _entropy(log_softmax.clamp(min=torch.finfo(log_softmax.dtype).min))  # 0 * -inf must be 0


def _entropy(log_softmax: torch.Tensor) -> torch.Tensor:
    return 0.0 - (log_softmax.exp() * log_softmax).sum(dim=-1)  # a plain minus would print an entropy of -0


def _from_logits(
    logits: torch.Tensor, labels: torch.Tensor, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    log_softmax = torch.log_softmax(_at_least_float32(logits), dim=-1)  # [B, T, V], kept for the backward
    # Not `logit - logsumexp`: at logits of 1e4 that difference of large numbers is off by 1e-3 in float32.
    log_probs = log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return log_probs, compute_entropy(log_softmax.detach()) if with_entropy else None


def _spread(values: torch.Tensor, positions: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    if positions is None:
        return values.view(shape)  # [N] to [B, T]
    return values.new_zeros(shape.numel()).index_copy(0, positions, values).view(shape)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
