"""The model's forward and backward as CUDA graphs: two launches in place of thousands, and no padding.

A small batch leaves a GPU waiting: Python launches some 4,500 kernels a step, most shorter than their launch. A graph
records them once, with the addresses of all tensors, and replays them. It holds for one shape, so batches are packed
into few; each is recorded when it first comes. The output head and the loss stay outside.

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
from cs336_sft.training.packing import Packed, pack, packed_attention
from cs336_sft.utils.distributed import rank

# Classes whose forward is torch's rms_norm, in several kernels.
_RMS_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")

_log = logging.getLogger(__name__)


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
        """Take autocast's ``dtype`` if it is on, and what begins to average a gradient."""
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
        self._copies = [  # none without autocast, which uses the weights as they are
            (module, name, parameter, self._copy_for(parameter, dtype))
            for module in model.modules()
            if dtype and type(module) is torch.nn.Linear and module is not head
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and parameter.dtype != dtype
        ]
        copied = {id(parameter) for _, _, parameter, _ in self._copies}
        self._of_head = [parameter for parameter in head.parameters() if parameter.requires_grad]
        apart = copied | {id(parameter) for parameter in self._of_head}  # the head's gradient comes from outside, too
        others = [parameter for parameter in self._trained if id(parameter) not in apart]
        self._hooks = [other.register_post_accumulate_grad_hook(self._is_ready) for other in others]

    def __call__(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, OutputHead]:
        """Do what ``run_to_response`` does, for a batch on the CPU."""
        if self.failed:
            return run_to_response(model, batch)
        check_ids(self.model, batch.input_ids)
        packed = pack(batch.input_ids, batch.attention_mask)
        key = (packed.shape, self.exchanges)
        if key not in self.recordings:
            try:
                self.recordings[key] = self._record(packed)
            except RuntimeError as error:  # out of memory among them
                if self._exchange:  # the other processes would wait for its gradients
                    problem = f"process {rank()}: no CUDA graphs: {str(error).splitlines()[0]}"
                    raise ConfigError(problem, "set CS336_CUDA_GRAPHS=0, or lower micro_batch_size") from error
                _log.warning("no CUDA graphs, going on without: %s", str(error).splitlines()[0])
                self.failed = True
        if self.failed:  # below the except block: the error holds no tensors any more
            self._forget()
            self._copies.clear()
            for parameter in self._trained:
                parameter.grad = parameter.grad if parameter.grad.any() else None
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
        if not torch.cuda.is_available():
            return self.recordings.clear()
        torch.cuda.synchronize()  # recordings may still run
        self.recordings.clear()
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
        """Lend the model copies, short norms and packed attention while it is recorded."""
        attention = self.model.config._attn_implementation
        self.model.config._attn_implementation = "packed"
        for module, name, _, copy in self._copies:
            module._parameters[name] = copy
        norms = shorten_norms(self.model)
        try:
            yield
        finally:
            self.model.config._attn_implementation = attention
            for module, name, parameter, _ in self._copies:
                module._parameters[name] = parameter
            for norm in norms:
                del norm.forward


def shorten_norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Make each RMSNorm one kernel, until its ``forward`` is deleted."""
    norms = [module for module in model.modules() if type(module).__name__ in _RMS_NORMS]
    for norm in norms:
        norm.forward = partial(_rms_norm, norm)
    return norms


def _rms_norm(norm: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    normed, kind = F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon), hidden.device.type
    # Cast once here, not by autocast in each of the linear layers that read it.
    return normed.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else normed


class _Replay(torch.autograd.Function):
    """``anchor, recording, batch of N tokens -> hidden [1, N, H]``."""

    @staticmethod
    def forward(ctx, anchor, recording, batch):
        ctx.recording = recording
        for own, new in zip(recording.batch[:3], batch[:3], strict=True):
            own.copy_(new, non_blocking=True)
        recording.forward()
        return recording.hidden.clone()  # the next forward overwrites it

    @staticmethod
    def backward(ctx, grad):
        ctx.recording.of_hidden.copy_(grad)
        ctx.recording.backward()
        return None, None, None


def can_be_graphed(model: torch.nn.Module, dtype: torch.dtype | None = None) -> bool:
    """Tell whether a step can be recorded that computes in ``dtype``.

    None is the weights' own. It can on a GPU, in 16 bits, without dropout, if transformers lets attention be replaced.
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
