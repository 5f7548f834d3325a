"""The model's forward and backward as CUDA graphs: two launches in place of thousands, and no padding.

A small batch leaves a GPU waiting: Python launches some 4,500 kernels a step, most shorter than their launch. A graph
records them once, with the addresses of all tensors, and replays them. It holds for one shape, so the sequences of a
batch stand one after another in a single row (packed), which is filled up to a multiple of 256 tokens; each shape is
recorded when it first comes. The output head and the loss stay outside.

What is recorded computes what autocast does, with less traffic: linear layers use bfloat16 copies of their weights,
made once a step, whose gradients are added to float32 ones directly; RMSNorm is one kernel.
`CS336_CUDA_GRAPHS=0` turns all this off. Read `GraphedForward.__call__` first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from cs336_sft.errors import ConfigError
from cs336_sft.losses import run_to_response
from cs336_sft.model.output_head import OutputHead, check_ids, find_head_module, run_to_head
from cs336_sft.records import Batch
from cs336_sft.utils.distributed import rank

MULTIPLE = 256  # of tokens in a row: about 10 shapes in GSM8K
# Classes whose forward is torch's rms_norm, in several kernels.
_RMS_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")

_log = logging.getLogger(__name__)


@dataclass
class Packed:
    """The sequences of a batch in one row, and a last one that fills it up."""

    input_ids: torch.Tensor  # [1, N]
    position_ids: torch.Tensor  # [1, N], from 0 in each sequence
    starts: torch.Tensor  # [B + 2] int32, where each begins; the last is N
    longest: int  # a power of 2 that no sequence exceeds

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.input_ids.numel(), self.starts.numel(), self.longest

    def inputs(self) -> dict[str, Any]:
        """Return what the model's forward takes; transformers hands the last two on to ``packed_attention``."""
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "cu_seq_lens_q": self.starts,
            "max_length_q": self.longest,
        }

    def to(self, device: torch.device) -> Packed:
        return Packed(*[tensor.to(device) for tensor in self._tensors()], self.longest)

    def copy_(self, other: Packed) -> None:
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new, non_blocking=True)

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self.input_ids, self.position_ids, self.starts


@dataclass
class Recording:
    """Forward and backward for one shape, which read and write these tensors."""

    batch: Packed  # to come
    hidden: torch.Tensor  # [1, N, H], what the forward writes
    of_hidden: torch.Tensor  # [1, N, H], the gradient that the backward reads; it adds to the parameters' `grad`
    head: OutputHead
    forward: Callable[[], Any]
    backward: Callable[[], Any]


class GraphedForward:
    """``run_to_response`` of one model, recorded for each shape of its batches; call ``renew`` after each update.

    The parameters' ``grad`` tensors are part of a recording: set them to zero between steps, never to None.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        dtype: torch.dtype | None = None,
        exchange: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        """Take autocast's ``dtype`` (None: no autocast), and what averages a gradient over processes, if there are any.

        ``exchange`` returns what ``all_reduce(..., async_op=True)`` does.
        """
        from transformers import AttentionInterface  # here: it takes seconds, and few need it

        AttentionInterface.register("packed", packed_attention)
        self.model, self.recordings, self.failed = model, {}, False
        self.exchanges, self._exchange, self._exchanged = False, exchange, []
        self._forget()
        self._anchor = torch.ones((), requires_grad=True)  # lets autograd call the recorded backward
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)
        head = find_head_module(model)
        self._copies = [  # the weights as they are, without autocast
            (module, name, parameter, self._copy_for(parameter, dtype))
            for module in model.modules()
            if dtype and type(module) is torch.nn.Linear and module is not head
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and parameter.dtype != dtype
        ]
        self._norms = find_norms(model)
        copied = {id(parameter) for _, _, parameter, _ in self._copies}
        self._of_head = [parameter for parameter in head.parameters() if parameter.requires_grad]
        apart = copied | {id(parameter) for parameter in self._of_head}  # the head's gradient comes from outside, too
        others = [parameter for parameter in self._trained if id(parameter) not in apart]
        self._hooks = [other.register_post_accumulate_grad_hook(self._is_ready) for other in others]

    def __call__(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, OutputHead]:
        """Do what ``run_to_response`` does, for a batch on the CPU."""
        check_ids(self.model, batch.input_ids)
        packed = pack(batch.input_ids, batch.attention_mask)
        key = (packed.shape, self.exchanges)
        if not self.failed and key not in self.recordings:
            try:
                self.recordings[key] = self._record(packed)
            except RuntimeError as error:  # out of memory among them
                if self._exchange:  # the other processes would wait for its gradients
                    problem = f"process {rank()}: no CUDA graphs: {str(error).splitlines()[0]}"
                    raise ConfigError(problem, "set CS336_CUDA_GRAPHS=0, or lower micro_batch_size") from error
                _log.warning("no CUDA graphs, going on without: %s", str(error).splitlines()[0])
                self.failed = True
            if self.failed:  # here, where the error holds no tensors any more
                self._forget()
                self._copies.clear()
                for parameter in self._trained:
                    parameter.grad = parameter.grad if parameter.grad.any() else None
        if self.failed:
            return run_to_response(model, batch)
        recording = self.recordings[key]
        hidden = _Replay.apply(self._anchor, recording, packed)[0]  # [row, H]
        positions = batch.response_mask[batch.attention_mask].nonzero().squeeze(-1)  # [N], in the row
        return hidden.index_select(0, positions.to(hidden.device, non_blocking=True)), recording.head

    def finish_exchange(self) -> None:
        """Average the head's gradient, which only the whole backward pass completes."""
        for work in [self._exchange(parameter.grad) for parameter in self._of_head]:
            work.wait()

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the weights again, after an optimizer has changed them."""
        if self._copies:
            *_, parameters, copies = zip(*self._copies, strict=True)
            torch._foreach_copy_(copies, parameters)

    def close(self) -> None:
        """Free the recordings and the gradients."""
        self._forget()
        for hook in self._hooks:
            hook.remove()
        self._copies.clear()
        for parameter in self._trained:
            parameter.grad = None

    def _forget(self) -> None:
        self._largest = 0
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # recordings may still run
        self.recordings.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            self._pool = torch.cuda.graph_pool_handle()

    def _record(self, batch: Packed) -> Recording:
        device = next(self.model.parameters()).device
        kind, size = device.type, batch.input_ids.numel()
        batch = batch.to(device)
        if kind != "cuda":  # nothing to capture: run it each time, on the same tensors (for tests)
            return self._run_each_time(batch)
        if size > self._largest:  # smaller ones fit into its memory, if they are recorded after it
            self._forget()
            self._largest = size
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Autocast's cache would keep bfloat16 copies of the weights as they are now.
        mixed = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        with self._lent(), torch.autocast(kind, **mixed, cache_enabled=False):
            if not self.recordings:  # libraries set themselves up in their first call, which can't be recorded
                few = torch.zeros(1, 1, dtype=torch.long)
                hidden, _ = run_to_head(self.model, pack(few, few == 0).to(device).inputs())
                torch.autograd.grad(hidden.sum(), self._trained, allow_unused=True)
                hidden = hidden.new_empty(1, size, hidden.shape[-1])
                self._hidden, self._of_hidden = hidden, torch.zeros_like(hidden)  # all shapes share them
            hidden, of_hidden = self._hidden[:, :size], self._of_hidden[:, :size]
            # Only this thread is held to what can be captured: NCCL's own thread asks how its work goes on.
            settings = {"pool": self._pool, "capture_error_mode": "thread_local" if self._exchange else "global"}
            with torch.cuda.graph(forward, **settings):
                live, head = run_to_head(self.model, batch.inputs())
                hidden.copy_(live.detach())
        with torch.cuda.graph(backward, **settings):
            self._backward(live, of_hidden)
        return Recording(batch, hidden, of_hidden, head, forward.replay, backward.replay)

    def _run_each_time(self, batch: Packed) -> Recording:
        with torch.no_grad(), self._lent():
            shown, head = run_to_head(self.model, batch.inputs())
        recording = Recording(batch, shown, torch.zeros_like(shown), head, lambda: None, lambda: None)

        def forward() -> None:
            with torch.enable_grad(), self._lent():
                live, _ = run_to_head(self.model, batch.inputs())
            recording.hidden.copy_(live.detach())
            recording.backward = lambda: self._backward(live, recording.of_hidden)

        recording.forward = forward
        return recording

    def _backward(self, hidden: torch.Tensor, gradient: torch.Tensor) -> None:
        torch.autograd.backward(hidden, gradient)
        for work in self._exchanged:
            work.wait()
        self._exchanged.clear()

    def _is_ready(self, parameter: torch.nn.Parameter) -> None:
        """Begin to average a gradient while those of earlier layers are computed."""
        if self.exchanges:
            self._exchanged.append(self._exchange(parameter.grad))

    def _copy_for(self, parameter: torch.nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
        """Make a copy whose gradient goes to the parameter's."""
        copy = parameter.detach().to(dtype).requires_grad_()

        def add(copy: torch.Tensor) -> None:
            parameter.grad.add_(copy.grad)  # reads bfloat16, adds in float32
            copy.grad = None
            self._is_ready(parameter)

        copy.register_post_accumulate_grad_hook(add)
        return copy

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """Lend the model the copies, the short norms and the packed attention while it is recorded."""
        attention = self.model.config._attn_implementation
        self.model.config._attn_implementation = "packed"
        for module, name, _, copy in self._copies:
            module._parameters[name] = copy
        shorten(self._norms)
        try:
            yield
        finally:
            self.model.config._attn_implementation = attention
            for module, name, parameter, _ in self._copies:
                module._parameters[name] = parameter
            for norm in self._norms:
                del norm.forward


def pack(ids: torch.Tensor, real: torch.Tensor) -> Packed:
    """Pack ``ids [B, T]``, of which those are tokens where ``real`` is True.

    >>> batch = pack(torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]]))
    >>> batch.input_ids[0, :5].tolist(), batch.position_ids[0, :5].tolist(), batch.starts.tolist(), batch.longest
    ([5, 6, 7, 8, 0], [0, 1, 2, 0, 0], [0, 3, 4, 256], 512)
    """
    lengths = real.sum(1)
    fill = MULTIPLE - int(lengths.sum()) % MULTIPLE  # at least 1: kernels need not know empty sequences
    lengths = torch.cat([lengths, lengths.new_tensor([fill])])
    starts = F.pad(lengths.cumsum(0), (1, 0))  # [B + 2]
    positions = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(lengths)
    longest = max(512, 1 << int(lengths.max() - 1).bit_length())  # few values, so few recordings
    return Packed(F.pad(ids[real], (0, fill))[None], positions[None], starts.int(), longest)


def packed_attention(module, query, key, value, attention_mask, *, scaling=None, sliding_window=None, **kwargs):
    """Attend within each sequence of a row: ``query [1, heads, N, D]`` gives ``[1, N, heads, D]``, and no weights."""
    starts, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    if query.is_cuda:  # the operator below torch.nn.attention.varlen, whose arguments change with each version of torch
        rows = [states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value)]  # [N, heads, D]
        left = sliding_window - 1 if sliding_window else -1
        attend = torch.ops.aten._flash_attention_forward
        sizes = {"scale": scaling, "window_size_left": left, "window_size_right": 0}
        return attend(*rows, starts, starts, longest, longest, 0.0, True, False, **sizes)[0][None], None
    place = torch.arange(query.shape[2])
    sequence = torch.bucketize(place, starts, right=True)
    behind = place[:, None] - place
    seen = (sequence[:, None] == sequence) & (behind >= 0) & (behind < (sliding_window or len(place)))
    settings = {"attn_mask": seen, "scale": scaling, "enable_gqa": key.shape[1] < query.shape[1]}
    return F.scaled_dot_product_attention(query, key, value, **settings).transpose(1, 2), None


def find_norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in _RMS_NORMS]


def shorten(norms: list[torch.nn.Module]) -> None:
    """Make RMSNorm one kernel, until ``forward`` is deleted from the modules."""
    for norm in norms:
        norm.forward = partial(_rms_norm, norm)


def _rms_norm(norm: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    normed, kind = F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon), hidden.device.type
    # Cast once here, not by autocast in each of the linear layers that read it.
    return normed.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else normed


class _Replay(torch.autograd.Function):
    """``anchor, recording, batch of N tokens -> hidden [1, N, H]``."""

    @staticmethod
    def forward(ctx, anchor, recording, batch):
        ctx.recording = recording
        recording.batch.copy_(batch)
        recording.forward()
        return recording.hidden.clone()  # the next forward overwrites it

    @staticmethod
    def backward(ctx, grad):
        ctx.recording.of_hidden.copy_(grad)
        ctx.recording.backward()
        return None, None, None


def can_be_graphed(model: torch.nn.Module, dtype: torch.dtype | None = None) -> bool:
    """Tell whether a step that computes in ``dtype`` (None: that of the weights) can be recorded.

    It can on a GPU, in 16 bits, without dropout, if transformers lets the model's attention be replaced.
    """
    if os.environ.get("CS336_CUDA_GRAPHS") == "0" or not _on_gpu(model):
        return False
    drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    drops = drops or getattr(model.config, "attention_dropout", 0.0) > 0
    capped = getattr(model.config, "attn_logit_softcapping", None)  # Gemma 2
    other = capped or getattr(model, "is_gradient_checkpointing", False) or getattr(model, "is_quantized", False)
    short = (dtype or next(model.parameters()).dtype).itemsize == 2  # flash attention knows no other
    return short and getattr(model, "_supports_attention_backend", False) and not (drops or other)


def _on_gpu(model: torch.nn.Module) -> bool:
    return all(parameter.is_cuda for parameter in model.parameters())
