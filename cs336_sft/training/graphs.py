"""The model's forward and backward as CUDA graphs: two launches in place of thousands.

A small batch leaves a GPU waiting: Python launches some 4,500 kernels a step, most shorter than their launch. A graph
records them once, with the addresses of all tensors, and replays them. It holds for one shape, so sequences are padded
to a multiple of 32 tokens; each shape is recorded when it first comes. The output head and the loss stay outside.

What is recorded computes what autocast does, with less traffic: linear layers use bfloat16 copies of their weights,
made once a step, whose gradients are added to float32 ones directly; RMSNorm is one kernel.
`CS336_CUDA_GRAPHS=0` turns all this off. Read `GraphedForward.__call__` first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from cs336_sft.model.output_head import OutputHead, check_ids, find_head_module, run_to_head

MULTIPLE = 32  # of the padded length: about 15 shapes in GSM8K, and 7 % more padding
# Classes whose forward is torch's rms_norm, in several kernels.
_RMS_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")

_log = logging.getLogger(__name__)


@dataclass
class Recording:
    """Forward and backward for one shape, which read and write these tensors."""

    ids: torch.Tensor  # [B, T], of the batch to come
    hidden: torch.Tensor  # [B, T, H], what the forward writes
    of_hidden: torch.Tensor  # [B, T, H], the gradient that the backward reads; it adds to the parameters' `grad`
    head: OutputHead
    forward: Callable[[], Any]
    backward: Callable[[], Any]


class GraphedForward:
    """``run_to_head`` of one model, recorded for each shape of its batches; call ``renew`` after each update.

    The parameters' ``grad`` tensors are part of a recording: set them to zero between steps, never to None.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype | None = None) -> None:
        self.model, self.recordings, self.failed = model, {}, False
        self._forget()
        self._anchor = torch.ones((), requires_grad=True)  # lets autograd call the recorded backward
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.grad = torch.zeros_like(parameter)
        head = find_head_module(model)
        self._copies = [  # in autocast's dtype; without autocast (None) the weights are used as they are
            (module, name, parameter, _copy_for(parameter, dtype))
            for module in model.modules()
            if dtype and type(module) is torch.nn.Linear and module is not head
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and parameter.dtype != dtype
        ]
        self._norms = [module for module in model.modules() if type(module).__name__ in _RMS_NORMS]

    def __call__(self, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, OutputHead]:
        """Do what ``run_to_head`` does, for ``input_ids [B, T]`` on the CPU."""
        ids = inputs["input_ids"]
        check_ids(self.model, ids)
        length = ids.shape[1]
        ids = F.pad(ids, (0, -length % MULTIPLE))  # on the right, where causal attention never looks
        if not self.failed and ids.shape not in self.recordings:
            try:
                self.recordings[ids.shape] = self._record(ids.shape)
            except RuntimeError as error:  # out of memory among them
                _log.warning("no CUDA graphs, going on without: %s", str(error).splitlines()[0])
                self.failed = True
            if self.failed:  # here, where the error holds no tensors any more
                self._forget()
                self._copies.clear()
                for parameter in self._trained:
                    parameter.grad = parameter.grad if parameter.grad.any() else None
        if self.failed:
            return run_to_head(model, inputs)
        recording = self.recordings[ids.shape]
        return _Replay.apply(self._anchor, recording, ids)[:, :length], recording.head

    @torch.no_grad()
    def renew(self) -> None:
        """Copy the weights again, after an optimizer has changed them."""
        if self._copies:
            *_, parameters, copies = zip(*self._copies, strict=True)
            torch._foreach_copy_(copies, parameters)

    def close(self) -> None:
        """Free the recordings and the gradients."""
        self._forget()
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

    def _record(self, shape: torch.Size) -> Recording:
        device = next(self.model.parameters()).device
        kind = device.type
        ids = torch.zeros(shape, dtype=torch.long, device=device)
        if kind != "cuda":  # nothing to capture: run it each time, on the same tensors (for tests)
            return self._run_each_time(ids)
        if shape.numel() > self._largest:  # smaller ones fit into its memory, if they are recorded after it
            self._forget()
            self._largest = shape.numel()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Autocast's cache would keep bfloat16 copies of the weights as they are now.
        mixed = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        with self._lent(), torch.autocast(kind, **mixed, cache_enabled=False):
            if not self.recordings:  # libraries set themselves up in their first call, which can't be recorded
                hidden, _ = run_to_head(self.model, {"input_ids": ids[:1, :MULTIPLE]})
                torch.autograd.grad(hidden.sum(), self._trained, allow_unused=True)
                hidden = hidden.new_empty(shape.numel(), hidden.shape[-1])
                self._hidden, self._of_hidden = hidden, torch.zeros_like(hidden)  # all shapes share them
            hidden, of_hidden = (buffer[: shape.numel()].view(*shape, -1) for buffer in (self._hidden, self._of_hidden))
            with torch.cuda.graph(forward, pool=self._pool):
                live, head = run_to_head(self.model, {"input_ids": ids})
                hidden.copy_(live.detach())
        with torch.cuda.graph(backward, pool=self._pool):
            torch.autograd.backward(live, of_hidden)
        return Recording(ids, hidden, of_hidden, head, forward.replay, backward.replay)

    def _run_each_time(self, ids: torch.Tensor) -> Recording:
        with torch.no_grad():
            shown, head = run_to_head(self.model, {"input_ids": ids})
        recording = Recording(ids, shown, torch.zeros_like(shown), head, lambda: None, lambda: None)

        def forward() -> None:
            with torch.enable_grad(), self._lent():
                live, _ = run_to_head(self.model, {"input_ids": ids})
            recording.hidden.copy_(live.detach())
            recording.backward = lambda: torch.autograd.backward(live, recording.of_hidden)

        recording.forward = forward
        return recording

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """Lend the model the copies and the short norms while it is recorded."""
        for module, name, _, copy in self._copies:
            module._parameters[name] = copy
        for norm in self._norms:
            norm.forward = partial(_rms_norm, norm)
        try:
            yield
        finally:
            for module, name, parameter, _ in self._copies:
                module._parameters[name] = parameter
            for norm in self._norms:
                del norm.forward


def _copy_for(parameter: torch.nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
    """Make a copy whose gradient goes to the parameter's."""
    copy = parameter.detach().to(dtype).requires_grad_()

    def add(copy: torch.Tensor) -> None:
        parameter.grad.add_(copy.grad)  # reads bfloat16, adds in float32
        copy.grad = None

    copy.register_post_accumulate_grad_hook(add)
    return copy


def _rms_norm(norm: torch.nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


class _Replay(torch.autograd.Function):
    """``anchor, recording, ids [B, T] -> hidden [B, T, H]``."""

    @staticmethod
    def forward(ctx, anchor, recording, ids):
        ctx.recording = recording
        recording.ids.copy_(ids, non_blocking=True)
        recording.forward()
        return recording.hidden.clone()  # the next forward overwrites it

    @staticmethod
    def backward(ctx, grad):
        ctx.recording.of_hidden.copy_(grad)
        ctx.recording.backward()
        return None, None, None


def can_be_graphed(model: torch.nn.Module) -> bool:
    """Tell whether a step of this model can be recorded: on a GPU, no dropout."""
    if os.environ.get("CS336_CUDA_GRAPHS") == "0" or not _on_gpu(model):
        return False
    drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())
    drops = drops or getattr(model.config, "attention_dropout", 0.0) > 0
    checkpointing = getattr(model, "is_gradient_checkpointing", False)
    return not (drops or checkpointing or getattr(model, "is_quantized", False))


def _on_gpu(model: torch.nn.Module) -> bool:
    return all(parameter.is_cuda for parameter in model.parameters())
