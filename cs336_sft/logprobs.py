"""Log-probabilities of the labels and entropies of the next-token distributions, both in nats.

The plain way makes ``[B, T, V]`` logits, a log-softmax of the same size and, for the entropy, two more. None of them is
needed: ``get_response_log_probs`` goes from the hidden states to one number a position, a few hundred rows at a time
(see ``chunked_head``). Half-precision operands are multiplied into float32 logits; bfloat16 has 8 bits of mantissa, so
near -20 a log-probability would be off by up to 0.06.
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint

from cs336_sft.errors import ConfigError
from cs336_sft.model.chunked_head import head_log_probs
from cs336_sft.model.output_head import find_head_module, run_to_head

# Logits that compute_entropy works on at a time: 2**22 are 16 MB in float32.
_ENTROPY_CHUNK = 2**22


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the distribution that each row of logits stands for, ``-sum_v p_v log p_v`` (CS336 handout).

    Streams: a few rows at a time, so that beside the logits there is never a softmax of their size, and the backward
    makes it again from the logits. Stable: logits of any finite size neither overflow nor lose the small
    probabilities, and an entry of -inf (a forbidden token) has probability 0 and adds 0, in the value and in the
    gradient, which is ``-p_v (log p_v + entropy)``. Differentiable, twice too.

    Args:
        logits: ``[..., V]``, floating point, unnormalised. A row that is -inf throughout has no distribution: nan.

    Returns:
        ``[...]``, in nats; float32, or float64 for float64 logits.

    >>> compute_entropy(torch.tensor([[0.0, 0.0], [1e4, -1e4], [3.0, float("-inf")]]))
    tensor([0.6931, 0.0000, 0.0000])
    """
    return _Entropy.apply(logits)


def get_response_log_probs(
    model: torch.nn.Module,
    input_ids: torch.Tensor,
    labels: torch.Tensor,
    return_token_entropy: bool = False,
    *,
    attention_mask: torch.Tensor | None = None,
    response_mask: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Log-probability of every label given what stands before it (CS336 handout).

    The model's ``[B, T, V]`` logits are never made: its output head runs over chunks of its hidden states, and again
    in the backward. Factors and soft caps on the logits are honoured (see ``output_head``).

    Args:
        model: a Hugging Face causal language model, perhaps wrapped by PEFT, DistributedDataParallel or accelerate.
            Of a model that names no output head (not a Hugging Face one) the logits are taken as they come:
            ``model(input_ids).logits``, ``[B, T, V]``.
        input_ids: int64 ``[B, T]``, padded on the right. Then no attention mask is needed: a real token looks only
            to its left, where there is no padding.
        labels: int64 ``[B, T]``: ``labels[b, t]`` is what position ``t`` must predict.
        return_token_entropy: also give the entropy of each position's next-token distribution.
        attention_mask: ``[B, T]``, True (or 1) on real tokens; needed only for padding on the left.
        response_mask: ``[B, T]``, True (or 1) where values are wanted: the head runs for these positions only, and
            the others get 0. None: everywhere; prompt and padding have values too, which the loss leaves out.

    Returns:
        ``log_probs``, ``[B, T]`` in nats, float32 or wider, differentiable (once). With ``return_token_entropy`` also
        ``token_entropy``, ``[B, T]`` in nats, without a graph: it is there to be logged. To train on an entropy use
        ``compute_entropy``.

    Raises:
        ConfigError: the shapes of ``input_ids``, ``labels`` and ``response_mask`` differ, or the model treats its
            logits in a way that can't be followed.

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
    """The chunked head in its plainest form, for reading; ``get_response_log_probs`` is the version to use.

    ``checkpoint`` forgets a chunk's logits after its forward and makes them again in the backward, so at most
    ``chunk_size`` rows of logits exist at any time.

    Args:
        hidden: ``[..., H]``, what the model gives to its head.
        head_weight: ``[V, H]``, ``lm_head.weight``.
        labels: int64 ``[...]``.
        chunk_size: rows at a time.

    Returns:
        ``{"log_probs": [...], "token_entropy": [...]}`` in nats, float32 or wider; the first differentiable, the
        second without a graph.

    Raises:
        ConfigError: ``chunk_size`` is below 1, or the shapes don't belong together.

    >>> hidden, weight = torch.eye(3), torch.zeros(8, 3)
    >>> chunked_log_probs(hidden, weight, torch.tensor([0, 5, 7]), chunk_size=2)["log_probs"].exp()
    tensor([0.1250, 0.1250, 0.1250])
    """
    if chunk_size < 1:
        raise ConfigError(f"chunk_size is {chunk_size}", "give a whole number of at least 1")
    if hidden.shape[:-1] != labels.shape or hidden.shape[-1] != head_weight.shape[-1]:
        raise ConfigError(
            f"hidden has shape {tuple(hidden.shape)}, labels {tuple(labels.shape)}, "
            f"head_weight {tuple(head_weight.shape)}",
            "give [..., H], [...] and [V, H]",
        )

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


class _Entropy(torch.autograd.Function):
    """Keeps the logits, which exist anyway, and one number a row."""

    @staticmethod
    def forward(ctx, logits):
        rows = logits.reshape(-1, logits.shape[-1])  # [N, V]
        entropy = torch.cat([_entropy(_log_softmax(chunk)) for chunk in rows.split(_rows_at_once(rows))])
        entropy = entropy.view(logits.shape[:-1])
        ctx.save_for_backward(logits, entropy)
        return entropy

    @staticmethod
    def backward(ctx, grad_entropy):
        logits, entropy = ctx.saved_tensors
        columns = (logits.reshape(-1, logits.shape[-1]), entropy.reshape(-1, 1), grad_entropy.reshape(-1, 1))
        pieces = zip(*(column.split(_rows_at_once(columns[0])) for column in columns), strict=True)
        if torch.is_grad_enabled():  # a second derivative is wanted: autograd keeps what it needs
            return torch.cat([_entropy_gradient(*piece) for piece in pieces]).view_as(logits)
        gradient = torch.empty_like(columns[0])
        for target, piece in zip(gradient.split(_rows_at_once(gradient)), pieces, strict=True):
            target.copy_(_entropy_gradient(*piece))
        return gradient.view_as(logits)


def _rows_at_once(rows: torch.Tensor) -> int:
    return max(1, _ENTROPY_CHUNK // max(1, rows.shape[-1]))


def _log_softmax(logits: torch.Tensor) -> torch.Tensor:
    """The -inf of forbidden tokens become a number: 0 * -inf must be 0."""
    log_softmax = torch.log_softmax(_at_least_float32(logits), dim=-1)
    return log_softmax.clamp(min=torch.finfo(log_softmax.dtype).min)


def _entropy(log_softmax: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of ``[..., V]`` finite log-probabilities."""
    return 0.0 - (log_softmax.exp() * log_softmax).sum(dim=-1)  # a plain minus would print an entropy of -0


def _entropy_gradient(logits: torch.Tensor, entropy: torch.Tensor, grad_entropy: torch.Tensor) -> torch.Tensor:
    log_softmax = _log_softmax(logits)  # [n, V]; entropy and grad_entropy: [n, 1]
    return (-log_softmax.exp() * (log_softmax + entropy) * grad_entropy).to(logits.dtype)


def _from_logits(
    logits: torch.Tensor, labels: torch.Tensor, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The plain way, for models whose head can't be reached."""
    log_softmax = torch.log_softmax(_at_least_float32(logits), dim=-1)  # [B, T, V], kept for the backward
    # Not `logit - logsumexp`: at logits of 1e4 that difference of large numbers is off by 1e-3 in float32.
    log_probs = log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return log_probs, compute_entropy(log_softmax.detach()) if with_entropy else None


def _spread(values: torch.Tensor, positions: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
    """``[N]`` values back to ``[B, T]``, 0 elsewhere."""
    if positions is None:
        return values.view(shape)
    return values.new_zeros(shape.numel()).index_copy(0, positions, values).view(shape)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
