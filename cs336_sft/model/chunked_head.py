"""Log-probabilities, entropies and the loss straight from the hidden states: ``[N, V]`` logits never exist.

The logits of N positions over a vocabulary of V are the largest tensor of a small model's training: 12 x 1,023
positions of Qwen2.5 take 7.46 GB in float32, and a plain loss holds several of that size. But a position needs its
own row only: ``log p = z_y - log sum_v exp(z_v)``. So here a few hundred rows are made at a time, reduced to one
number each, and dropped. For the backward there are two ways:

* recompute (``head_log_probs``): the backward makes each chunk's logits again. Four matrix products instead of three,
  and any gradient may come in.
* one pass (``one_pass_loss``): the loss is a weighted sum of the log-probabilities and the weights are known, so the
  gradient ``weight * (p - onehot)`` is known with the chunk's probabilities; the forward makes it at once. Three
  products.

Products are accumulated in float32 (float64 for float64 inputs), also where the operands are bfloat16: a logit near
20 that is rounded to bfloat16 is off by up to 0.06. On a GPU ``fused_head`` does the same in fewer passes over memory;
what is written here is what it is tested against.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from cs336_sft.errors import CourseError
from cs336_sft.model import triton_head as fused_head
from cs336_sft.model.compiled import compiled_on_gpu
from cs336_sft.model.output_head import OutputHead
from cs336_sft.model.products import add_product, blocks, product, wide

CPU_CHUNK, GPU_CHUNK = 128, 1024


class UsedTwiceError(CourseError):
    """The gradients of a one-pass loss were asked for a second time."""


def head_log_probs(
    hidden: torch.Tensor,
    head: OutputHead,
    labels: torch.Tensor,
    *,
    with_entropy: bool = False,
    chunk_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probability of each label, and the entropy of each row's distribution, in nats.

    Args:
        hidden: ``[N, H]``, what the model gives to its head.
        head: the head, from ``run_to_head``.
        labels: int64 ``[N]``.
        with_entropy: also give the entropies.
        chunk_size: rows whose logits exist at one time; None: 128 on a CPU, 1,024 on a GPU.

    Returns:
        ``(log_probs, entropy)``, each ``[N]``, float32 or wider. The log-probabilities are differentiable, once;
        the entropy, None unless asked for, has no graph.

    >>> weight = torch.nn.Linear(1, 2, bias=False)
    >>> _ = weight.weight.data.copy_(torch.tensor([[0.0], [1.0]]))
    >>> hidden = torch.tensor([[3.0]]).log()
    >>> log_probs, entropy = head_log_probs(hidden, OutputHead(weight), torch.tensor([1]), with_entropy=True)
    >>> log_probs.exp(), entropy
    (tensor([0.7500], grad_fn=<ExpBackward0>), tensor([0.5623]))
    """
    if not head.is_linear:
        return _checkpointed_log_probs(hidden, head, labels, with_entropy, chunk_size or _default_chunk(hidden))
    log_probs, entropy = _Recomputed.apply(
        hidden, head.module.weight, head.module.bias, head, labels, with_entropy, chunk_size
    )
    return log_probs, entropy if with_entropy else None


def one_pass_loss(
    hidden: torch.Tensor,
    head: OutputHead,
    labels: torch.Tensor,
    weights: torch.Tensor | float,
    *,
    with_entropy: bool = False,
    chunk_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``-sum_i weights_i * log p(labels_i)``, whose gradients are made in the forward.

    Args:
        hidden, head, labels, with_entropy, chunk_size: as in ``head_log_probs``.
        weights: ``[N]``, how much each position counts, or one number for all; no gradient goes to them.

    Returns:
        ``(loss, log_probs, entropy)``: the loss is a scalar to call ``backward`` on, once; the others are ``[N]`` and
        have no graph. Without gradient mode the loss is a value only, and its cost that of a forward.

    Raises:
        UsedTwiceError: in a second backward; the gradients are given away in the first.

    >>> head = OutputHead(torch.nn.Linear(4, 9, bias=False))
    >>> hidden = torch.zeros(2, 4, requires_grad=True)
    >>> loss, log_probs, _ = one_pass_loss(hidden, head, torch.tensor([3, 5]), torch.tensor([0.5, 0.5]))
    >>> loss.backward()
    >>> loss.detach().exp(), log_probs.exp()
    (tensor(9.), tensor([0.1111, 0.1111]))
    """
    needs_gradient = torch.is_grad_enabled() and (
        hidden.requires_grad or any(p.requires_grad for p in head.module.parameters())
    )
    if not (needs_gradient and head.is_linear):
        log_probs, entropy = head_log_probs(hidden, head, labels, with_entropy=with_entropy, chunk_size=chunk_size)
        loss = -(weights * log_probs).sum()
        return loss, log_probs.detach(), entropy
    loss, log_probs, entropy = _OnePass.apply(
        hidden, head.module.weight, head.module.bias, head, labels, weights, with_entropy, chunk_size
    )
    return loss, log_probs, entropy if with_entropy else None


# --- the two autograd functions ---------------------------------------------------------------------------------------


class _Recomputed(torch.autograd.Function):
    """``hidden [N, H], weight [V, H], bias [V] or None -> log_probs [N], entropy [N]``."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, head, labels, with_entropy, chunk_size):
        ctx.save_for_backward(hidden, weight, bias)
        hidden, weight, bias = _in_dtype_of_head(head, hidden, weight, bias)
        ctx.head, ctx.chunk_size, ctx.fused = head, chunk_size, _can_fuse(head, hidden, weight, bias)
        if ctx.fused:
            log_probs, entropy, log_total = fused_head.statistics(hidden, weight, labels, scale=head.scale)
            ctx.statistics = labels, log_total, log_probs.clone()
            ctx.mark_non_differentiable(entropy)
            return log_probs, entropy
        top, log_total, log_probs, entropy = (_per_row(hidden) for _ in range(4))  # [N] each
        step = compiled_on_gpu(_log_softmax_of_labels, hidden, overwrites=True)
        for rows in _chunks(hidden, chunk_size):
            logits = _logits(hidden[rows], weight, bias, head)  # [c, V]
            top[rows], log_total[rows], log_probs[rows], found = step(logits, labels[rows], with_entropy)
            if with_entropy:
                entropy[rows] = found
        ctx.statistics = labels, top, log_total, log_probs.clone()  # an output kept by itself would keep its graph
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_probs, _):
        hidden, weight, bias = _in_dtype_of_head(ctx.head, *ctx.saved_tensors)
        if ctx.fused:
            gradients = fused_head.gradients(
                hidden,
                weight,
                *ctx.statistics,
                grad_log_probs,
                scale=ctx.head.scale,
                dtypes=_gradient_dtypes(ctx.needs_input_grad, *ctx.saved_tensors),
            )
            return *gradients, None, None, None, None, None
        gradients = _Gradients(ctx.needs_input_grad, *ctx.saved_tensors)
        labels, top, log_total, log_probs = ctx.statistics
        step, weights = compiled_on_gpu(_gradient_of_logits, hidden, overwrites=True), grad_log_probs * ctx.head.scale
        for rows in _chunks(hidden, ctx.chunk_size):
            logits = _logits(hidden[rows], weight, bias, ctx.head)  # [c, V], the same again
            of_capped = _slope_of_cap(logits, ctx.head)
            of_rows = (labels[rows], top[rows], log_total[rows], log_probs[rows], weights[rows])
            gradients.add(rows, step(logits, *of_rows, hidden.dtype), of_capped, hidden[rows], weight)
        return *gradients.results(), None, None, None, None


class _OnePass(torch.autograd.Function):
    """``hidden, weight, bias, ..., weights [N] -> loss, log_probs [N], entropy [N]``."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, head, labels, weights, with_entropy, chunk_size):
        operands = hidden, weight, bias
        hidden, weight, bias = _in_dtype_of_head(head, *operands)
        log_probs, entropy = _per_row(hidden), _per_row(hidden)
        weights = torch.as_tensor(weights, dtype=log_probs.dtype, device=log_probs.device).expand(len(log_probs))
        if _can_fuse(head, hidden, weight, bias):
            log_probs, entropy, *found = fused_head.one_pass(
                hidden,
                weight,
                labels,
                weights,
                scale=head.scale,
                dtypes=_gradient_dtypes(ctx.needs_input_grad, *operands),
            )
            ctx.gradients = (*found, None)
            ctx.mark_non_differentiable(log_probs, entropy)
            return -(weights * log_probs).sum(), log_probs, entropy
        gradients = _Gradients(ctx.needs_input_grad, *operands)
        step = compiled_on_gpu(_log_softmax_and_gradient, hidden, overwrites=True)
        for rows in _chunks(hidden, chunk_size):
            logits = _logits(hidden[rows], weight, bias, head)  # [c, V]
            of_capped = _slope_of_cap(logits, head)
            scaled = -head.scale * weights[rows]
            gradient, log_probs[rows], found = step(logits, labels[rows], scaled, with_entropy, hidden.dtype)
            if with_entropy:
                entropy[rows] = found
            gradients.add(rows, gradient, of_capped, hidden[rows], weight)
        ctx.gradients = gradients.results()
        ctx.mark_non_differentiable(log_probs, entropy)
        return -(weights * log_probs).sum(), log_probs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss, *_):
        if ctx.gradients is None:
            raise UsedTwiceError("the gradients of a one-pass loss were already taken", "use head_log_probs")
        gradients, ctx.gradients = ctx.gradients, None
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(grad_loss)
        return *gradients, None, None, None, None, None


class _Gradients:
    """Collects the gradients of hidden states, weight and bias over the chunks; None for those not wanted."""

    def __init__(self, wanted: tuple[bool, ...], hidden: torch.Tensor, weight: torch.Tensor, bias) -> None:
        sum_dtype = wide(weight.dtype)
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=sum_dtype) if wanted[1] else None
        self.bias = torch.zeros_like(bias, dtype=sum_dtype) if bias is not None and wanted[2] else None
        self.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype

    def add(
        self,
        rows: slice,
        gradient: torch.Tensor,
        slope_of_cap: torch.Tensor | None,
        hidden: torch.Tensor,
        weight: torch.Tensor,
    ) -> None:
        """One chunk's share, from the gradient of its logits, ``[c, V]`` in the operands' dtype."""
        if slope_of_cap is not None:
            gradient = (gradient * slope_of_cap).to(hidden.dtype)
        if self.bias is not None:
            self.bias += gradient.sum(dim=0, dtype=self.bias.dtype)
        if self.hidden is not None:
            self.hidden[rows] = product(gradient, weight)
        if self.weight is not None:
            add_product(self.weight, gradient.T, hidden)

    def results(self) -> tuple[torch.Tensor | None, ...]:
        """Each in its input's dtype."""
        found = (self.hidden, self.weight, self.bias)
        return tuple(None if g is None else g.to(dtype) for g, dtype in zip(found, self.dtypes, strict=True))


# --- what happens to one chunk: [c, V] in, one number a row out. Written in place; logits are overwritten -------------


def _log_softmax_of_labels(
    logits: torch.Tensor, labels: torch.Tensor, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Maximum, log of the sum of ``exp(z - maximum)``, log-probability of the label, entropy; ``[c]`` each."""
    top = logits.amax(dim=-1, keepdim=True)
    # The maximum goes off first: `z_y - logsumexp` would be off by 1e-3 at logits of 1e4. The clamp makes of a
    # forbidden token's -inf a number that exp takes to 0 and that 0 can be multiplied with.
    logits = logits.sub_(top).clamp_(min=torch.finfo(logits.dtype).min)
    chosen = logits.gather(-1, labels.unsqueeze(-1))
    probabilities = logits.exp()  # not yet divided by their sum
    total = probabilities.sum(dim=-1, keepdim=True)
    entropy = None
    if with_entropy:
        entropy = (total.log() - (probabilities.mul_(logits)).sum(dim=-1, keepdim=True) / total).squeeze(-1)
    log_total = total.log()
    return top.squeeze(-1), log_total.squeeze(-1), (chosen - log_total).squeeze(-1), entropy


def _gradient_of_logits(
    logits: torch.Tensor,
    labels: torch.Tensor,
    top: torch.Tensor,
    log_total: torch.Tensor,
    log_probs: torch.Tensor,
    weights: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``weight * (onehot - p)``, the gradient of ``sum_i weight_i * log p_i``; ``[c, V]`` in ``dtype``."""
    gradient = logits.sub_(top.unsqueeze(-1)).sub_(log_total.unsqueeze(-1)).exp_().mul_(-weights.unsqueeze(-1))
    return _put_label(gradient.to(dtype), labels, log_probs, weights)


def _log_softmax_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, with_entropy: bool, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``(weight * (onehot - p) [c, V] in dtype, log-probability [c], entropy [c])``."""
    top = logits.amax(dim=-1, keepdim=True)
    logits = logits.sub_(top).clamp_(min=torch.finfo(logits.dtype).min)
    chosen = logits.gather(-1, labels.unsqueeze(-1))
    probabilities = logits.exp()
    total = probabilities.sum(dim=-1, keepdim=True)
    log_probs = (chosen - total.log()).squeeze(-1)
    entropy = None
    if with_entropy:
        entropy = (total.log() - logits.mul_(probabilities).sum(dim=-1, keepdim=True) / total).squeeze(-1)
    gradient = probabilities.mul_(-weights.unsqueeze(-1) / total)
    return _put_label(gradient.to(dtype), labels, log_probs, weights), log_probs, entropy


def _put_label(gradient: torch.Tensor, labels: torch.Tensor, log_probs: torch.Tensor, weights: torch.Tensor):
    """``1 - p`` of the label, from its log-probability (for a sure token, p near 1, to float32's 1e-7)."""
    at_label = -torch.expm1(log_probs) * weights
    return gradient.scatter_(-1, labels.unsqueeze(-1), at_label.unsqueeze(-1).to(gradient.dtype))


# --- scale and cap ----------------------------------------------------------------------------------------------------


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, head: OutputHead) -> torch.Tensor:
    """``[c, V]``, float32 or wider, as the model gives them."""
    logits = product(hidden, weight.T)
    if bias is not None:
        logits += bias
    if head.scale != 1.0:
        logits *= head.scale
    return logits if head.cap is None else logits.div_(head.cap).tanh_().mul_(head.cap)


def _slope_of_cap(logits: torch.Tensor, head: OutputHead) -> torch.Tensor | None:
    """d cap*tanh(z/cap) / dz = 1 - (capped / cap)^2, kept before the logits are overwritten."""
    return None if head.cap is None else 1.0 - (logits / head.cap).square_()


# --- dtypes and chunks ------------------------------------------------------------------------------------------------


def _chunks(hidden: torch.Tensor, chunk_size: int | None) -> list[slice]:
    return blocks(len(hidden), chunk_size or _default_chunk(hidden))


def _default_chunk(hidden: torch.Tensor) -> int:
    return GPU_CHUNK if hidden.is_cuda else CPU_CHUNK


def _in_dtype_of_head(head: OutputHead, *tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Hidden states, weight and bias as the head computes with them: under autocast in half precision.

    Cast inside the autograd functions: outside, autograd would round the float32 gradients to half precision first.
    """
    dtype = head.autocast or head.module.weight.dtype
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)


def _gradient_dtypes(wanted: tuple[bool, ...], hidden: torch.Tensor, weight: torch.Tensor, bias: None):
    """Of the gradients of hidden states and weight; None for one that is not wanted."""
    return hidden.dtype if wanted[0] else None, weight.dtype if wanted[1] else None


def _can_fuse(head: OutputHead, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    return bias is None and head.cap is None and fused_head.is_usable(hidden, weight)


def _per_row(hidden: torch.Tensor) -> torch.Tensor:
    return hidden.new_zeros(len(hidden), dtype=wide(hidden.dtype))


# --- heads that are not one matrix ------------------------------------------------------------------------------------


def _checkpointed_log_probs(
    hidden: torch.Tensor, head: OutputHead, labels: torch.Tensor, with_entropy: bool, chunk_size: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same through the module itself (quantised, LoRA on the head): autograd recomputes each chunk."""

    def of_chunk(rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with head.autocasting(rows.device):
            logits = head.module(rows)
        log_softmax = head.after(logits.to(wide(logits.dtype))).log_softmax(dim=-1)  # [c, V]
        with torch.no_grad():
            finite = log_softmax.clamp(min=torch.finfo(log_softmax.dtype).min)
            entropy = -(log_softmax.exp() * finite).sum(dim=-1) if with_entropy else log_softmax.new_zeros(len(rows))
        return log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy

    parts = [
        checkpoint(of_chunk, hidden[rows], labels[rows], use_reentrant=False)
        for rows in blocks(len(hidden), chunk_size)
    ]
    if not parts:
        parts = [of_chunk(hidden, labels)]
    log_probs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_probs, entropy.detach() if with_entropy else None
