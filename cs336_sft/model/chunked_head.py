"""Log-probabilities, entropies and the loss straight from the hidden states: ``[N, V]`` logits never exist.

``log p = z_y - log sum_v exp(z_v)`` needs its own row of logits only, so a few hundred rows are made at a time, reduced
to one number each, and dropped. ``one_pass_loss`` knows the weights of its sum, so its forward makes the gradient
``weight * (p - onehot)`` at once: three matrix products. ``head_log_probs`` takes any gradient and makes the logits
again in its backward: four. Products are accumulated in float32, also of bfloat16 operands.
"""

from __future__ import annotations

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from cs336_sft.errors import CourseError, DataError
from cs336_sft.model import triton_head
from cs336_sft.model.output_head import OutputHead
from cs336_sft.model.products import add_product, blocks, compiled_on_gpu, product, wide

CPU_CHUNK, GPU_CHUNK = 128, 1024
IGNORED = -100  # a label that marks a position as masked, as in torch's cross_entropy


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
    """Compute each label's log-probability and each row's entropy, ``[N]``, in nats.

    ``hidden`` is ``[N, H]``, ``head`` from ``run_to_head``. The log-probabilities are float32 or wider and
    differentiable, once; the entropy, None unless asked for, has no graph. At a label of -100 both are 0; others that
    are not in the vocabulary raise a ``DataError``. ``chunk_size`` rows of logits exist at one time.

    >>> head = OutputHead(torch.nn.Linear(4, 9, bias=False))
    >>> head_log_probs(torch.zeros(1, 4), head, torch.tensor([1]))[0].exp()
    tensor([0.1111], grad_fn=<ExpBackward0>)
    """
    kept = _kept(labels, head)  # before the labels move: on the CPU they cost no waiting for a GPU
    labels = labels.to(hidden.device, non_blocking=True)
    if kept is not None:
        found = head_log_probs(hidden[kept], head, labels[kept], with_entropy=with_entropy, chunk_size=chunk_size)
        return tuple(None if x is None else _spread(x, kept, len(labels)) for x in found)
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
    """Compute ``-sum_i weights_i * log p(labels_i)``, its gradients in the forward.

    ``weights`` is ``[N]`` or one number for all; the rest is as in ``head_log_probs``. Returns ``(loss, log_probs,
    entropy)``: a scalar to call ``backward`` on, once (``UsedTwiceError``), and ``[N]`` values without a graph.

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
        return -(weights * log_probs).sum(), log_probs.detach(), entropy
    n, kept = len(labels), _kept(labels, head)
    labels = labels.to(hidden.device, non_blocking=True)
    if kept is not None:
        hidden, labels = hidden[kept], labels[kept]
        weights = weights[kept] if isinstance(weights, torch.Tensor) and weights.dim() else weights
    loss, log_probs, entropy = _OnePass.apply(
        hidden, head.module.weight, head.module.bias, head, labels, weights, with_entropy, chunk_size
    )
    if kept is not None:
        log_probs, entropy = (_spread(x, kept, n) for x in (log_probs, entropy))
    return loss, log_probs, entropy if with_entropy else None


class _Recomputed(torch.autograd.Function):
    """``hidden [N, H], weight [V, H], bias [V] or None -> log_probs [N], entropy [N]``."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, head, labels, with_entropy, chunk_size):
        ctx.save_for_backward(hidden, weight, bias)
        ctx.others = head, labels, chunk_size
        log_probs, entropy, _ = _in_chunks((hidden, weight, bias), head, labels, None, with_entropy, chunk_size)
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_probs, _):
        head, labels, chunk_size = ctx.others
        wanted = ctx.needs_input_grad
        *_, gradients = _in_chunks(ctx.saved_tensors, head, labels, -grad_log_probs, False, chunk_size, wanted)
        return *gradients, None, None, None, None


class _OnePass(torch.autograd.Function):
    """``hidden, weight, bias, ..., weights [N] -> loss, log_probs [N], entropy [N]``."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, head, labels, weights, with_entropy, chunk_size):
        weights = torch.as_tensor(weights, dtype=wide(hidden.dtype), device=hidden.device).expand(len(hidden))
        log_probs, entropy, ctx.gradients = _in_chunks(
            (hidden, weight, bias), head, labels, weights, with_entropy, chunk_size, ctx.needs_input_grad
        )
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


def _in_chunks(
    operands: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    head: OutputHead,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    with_entropy: bool,
    chunk_size: int | None,
    wanted: tuple[bool, ...] = (False, False, False),
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Compute log-probabilities, entropies and the loss's gradients that are wanted."""
    # Cast as the head does under autocast. Outside of the autograd functions float32 gradients would be rounded first.
    dtype = head.autocast or head.module.weight.dtype
    hidden, weight, bias = (None if tensor is None else tensor.to(dtype) for tensor in operands)
    if bias is None and head.cap is None and (tiles := triton_head.usable_tiles(hidden, weight)):
        dtypes = tuple(x.dtype if need else None for x, need in zip(operands[:2], wanted, strict=False))
        log_probs, entropy, *found = triton_head.one_pass(
            hidden, weight, labels, weights, scale=head.scale, dtypes=dtypes, tiles=tiles
        )
        return log_probs, entropy, (*found, None)
    log_probs, entropy = (hidden.new_zeros(len(hidden), dtype=wide(hidden.dtype)) for _ in range(2))
    sum_dtype = wide(operands[1].dtype)
    of_hidden = torch.empty_like(operands[0]) if wanted[0] else None
    of_weight = torch.zeros_like(weight, dtype=sum_dtype) if wanted[1] else None
    of_bias = torch.zeros_like(bias, dtype=sum_dtype) if bias is not None and wanted[2] else None
    step = compiled_on_gpu(_log_softmax_and_gradient, hidden, overwrites=True)
    for rows in blocks(len(hidden), chunk_size or _default_chunk(hidden)):
        logits = product(hidden[rows], weight.T)  # [c, V], float32 or wider
        if bias is not None:
            logits += bias
        if head.scale != 1.0:
            logits *= head.scale
        slope_of_cap = None
        if head.cap is not None:
            logits = logits.div_(head.cap).tanh_()
            slope_of_cap = 1.0 - logits.square() if any(wanted) else None  # of cap * tanh(z / cap)
            logits.mul_(head.cap)
        scaled = None if weights is None else -head.scale * weights[rows]
        log_probs[rows], found, gradient = step(logits, labels[rows], scaled, with_entropy, hidden.dtype)
        if with_entropy:
            entropy[rows] = found
        if gradient is None:
            continue
        if slope_of_cap is not None:
            gradient = (gradient * slope_of_cap).to(hidden.dtype)
        if of_bias is not None:
            of_bias += gradient.sum(dim=0, dtype=of_bias.dtype)
        if of_hidden is not None:
            of_hidden[rows] = product(gradient, weight)
        if of_weight is not None:
            add_product(of_weight, gradient.T, hidden[rows])
    found = zip((of_hidden, of_weight, of_bias), operands, strict=True)  # each in its operand's dtype
    return log_probs, entropy, tuple(None if g is None else g.to(operand.dtype) for g, operand in found)


def _log_softmax_and_gradient(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None, with_entropy: bool, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Compute ``[c]`` log-probabilities, entropies and ``weight * (onehot - p)``."""
    top = logits.amax(dim=-1, keepdim=True)
    # Subtract the maximum first: `z_y - logsumexp` would be off by 1e-3 at logits of 1e4. The clamp turns a forbidden
    # token's -inf into a number that exp takes to 0 and that 0 can be multiplied with.
    logits = logits.sub_(top).clamp_(min=torch.finfo(logits.dtype).min)
    chosen = logits.gather(-1, labels.unsqueeze(-1))
    probabilities = logits.exp()  # not yet divided by their sum
    total = probabilities.sum(dim=-1, keepdim=True)
    log_probs = (chosen - total.log()).squeeze(-1)
    entropy = None
    if with_entropy:
        entropy = (total.log() - logits.mul_(probabilities).sum(dim=-1, keepdim=True) / total).squeeze(-1)
    if weights is None:
        return log_probs, entropy, None
    gradient = probabilities.mul_(-weights.unsqueeze(-1) / total).to(dtype)
    at_label = -torch.expm1(log_probs) * weights  # right to float32's 1e-7 for a sure token, with p near 1
    gradient.scatter_(-1, labels.unsqueeze(-1), at_label.unsqueeze(-1).to(dtype))
    return log_probs, entropy, gradient


def _kept(labels: torch.Tensor, head: OutputHead) -> torch.Tensor | None:
    """Return the positions whose label is not -100, or None for all. Check labels."""
    if not len(labels):
        return None
    vocabulary = len(head.module.weight) if head.is_linear else getattr(head.module, "out_features", 2**62)
    ignored = labels == IGNORED
    low, high, any_ignored = torch.stack(  # one transfer from the GPU
        [labels.masked_fill(ignored, 0).min(), labels.max(), ignored.any().long()]
    ).tolist()
    if low < 0 or high >= vocabulary:  # on a GPU it would end the process, or go unnoticed
        problem = f"a label is {low if low < 0 else high}, the output head has {vocabulary} tokens"
        raise DataError(problem, f"tokenize with the model's own tokenizer; {IGNORED} marks a position without a label")
    return (~ignored).nonzero().squeeze(-1) if any_ignored else None


def _spread(values: torch.Tensor, positions: torch.Tensor, n: int) -> torch.Tensor:
    """Put values back at their positions, with 0 elsewhere."""
    return values.new_zeros(n).index_copy(0, positions.to(values.device), values)


def _default_chunk(hidden: torch.Tensor) -> int:
    return GPU_CHUNK if hidden.is_cuda else CPU_CHUNK


def _checkpointed_log_probs(
    hidden: torch.Tensor, head: OutputHead, labels: torch.Tensor, with_entropy: bool, chunk_size: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Do the same with a head that is not one matrix (quantised, with LoRA)."""

    def of_chunk(rows: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(rows.device.type, dtype=head.autocast, enabled=head.autocast is not None):
            logits = head.module(rows)
        log_softmax = head.after(logits.to(wide(logits.dtype))).log_softmax(dim=-1)  # [c, V]
        with torch.no_grad():
            finite = log_softmax.clamp(min=torch.finfo(log_softmax.dtype).min)
            entropy = -(log_softmax.exp() * finite).sum(dim=-1) if with_entropy else log_softmax.new_zeros(len(rows))
        return log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy

    parts = [checkpoint(of_chunk, hidden[i], labels[i], use_reentrant=False) for i in blocks(len(hidden), chunk_size)]
    parts = parts or [of_chunk(hidden, labels)]
    log_probs, entropy = (torch.cat(part) for part in zip(*parts, strict=True))
    return log_probs, entropy.detach() if with_entropy else None
