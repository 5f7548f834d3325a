"""The memory of a training step, measured: the bytes of live tensors, which ``memory_estimate`` estimates.

On a GPU PyTorch's allocator counts them, on the CPU ``MemoryTracker``, to the same byte on every machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.model import logprob_variants
from cs336_sft.model.chunked_head import one_pass_loss
from cs336_sft.model.memory_estimate import StepSetup, format_bytes
from cs336_sft.model.output_head import run_to_head
from cs336_sft.model.shape import ModelShape


@dataclass(frozen=True)
class MemoryMeasurement:
    """Bytes of live tensors in one training step; ``forward``, ``backward`` and ``update`` are peaks of its parts."""

    device: str  # cpu, or the name of the GPU
    weights: int  # after the update, exact, as the next two
    gradients: int
    states: int
    forward: int  # from the start to the end of the loss
    backward: int
    update: int

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward, self.update)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"peak": self.peak}


class MemoryLimitError(CourseError, MemoryError):
    """An operation on the CPU would have exceeded the limit."""


class Allocation(NamedTuple):
    """A new storage: the operation that made it, its bytes, and the live bytes after it."""

    operation: str
    nbytes: int
    live: int


class MemoryTracker(TorchDispatchMode):
    """Counts the storages that are made inside the ``with`` block, on the CPU, until they are freed.

    Tensors that were there before count nothing, nor does scratch memory within one operation. ``live`` are the bytes
    now, ``largest`` those of the largest storage, ``allocations`` the new storages of at least 1 MiB, in order. More
    live bytes than ``limit`` raise ``MemoryLimitError``.

    >>> with MemoryTracker() as tracker:
    ...     y = (torch.zeros(1000) + 1).sum()  # twice 4,000 bytes for a moment, and a number that stays
    >>> tracker.live, tracker.peak
    (4, 8000)
    """

    def __init__(self, *, limit: int | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.live = self.peak = self.largest = 0
        self.allocations: list[Allocation] = []
        self._sizes: dict[int, int] = {}  # address of a storage's C++ object -> bytes
        self._before: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Views and in-place operations return what was there before: those storages are not new.
        for storage in _storages((args, kwargs)):
            key = storage._cdata
            if key not in self._sizes and key not in self._before:
                self._before.add(key)
                weakref.finalize(storage, self._before.discard, key)
        out = func(*args, **kwargs)
        for storage in _storages(out):
            self._count(storage, str(func).removesuffix(".default"))
        return out

    def reset_peak(self) -> None:
        self.peak = self.live

    def _count(self, storage: torch.UntypedStorage, operation: str) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self._before or self._sizes.get(key) == nbytes:
            return
        grown = nbytes - self._sizes.get(key, 0)  # an operation may resize the storage of its result
        live = self.live + grown
        if self.limit is not None and live > self.limit:
            raise MemoryLimitError(
                f"{operation} tried to allocate {format_bytes(grown)}; {format_bytes(self.live)} are live, "
                f"the limit is {format_bytes(self.limit)}",
                "use a smaller micro-batch or shorter sequences, or hold fewer copies of the logits",
            )
        if key not in self._sizes:
            # PyTorch keeps the Python object of a storage for as long as the storage lives, so this runs at its end.
            weakref.finalize(storage, self._free, key)
        self._sizes[key] = nbytes
        self.live, self.peak, self.largest = live, max(self.peak, live), max(self.largest, nbytes)
        if nbytes >= 2**20:
            self.allocations.append(Allocation(operation, nbytes, live))

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (x.untyped_storage() for x in tree_iter(values) if isinstance(x, torch.Tensor) and x.device.type == "cpu")


class GpuMeter:
    """Live and peak bytes by PyTorch's allocator, as ``MemoryTracker`` has them on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset_peak()

    @property
    def live(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def reset_peak(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)


@contextmanager
def measured(device: str | torch.device = "cpu", *, limit: int | None = None) -> Iterator[MemoryTracker | GpuMeter]:
    """Count the bytes of tensors (on the CPU, of those made inside the block).

    >>> with measured() as meter:
    ...     x = torch.ones(1000).double()
    >>> meter.live, meter.peak
    (8000, 12000)
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        yield GpuMeter(device)
        torch.cuda.synchronize(device)
    else:
        with MemoryTracker(limit=limit) as tracker:
            yield tracker


def build_model(shape: ModelShape, setup: StepSetup, device: str | torch.device = "cpu") -> torch.nn.Module:
    """Build a model of a shape with random weights, as Qwen2 or Llama."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    if shape.qk_norm != "none":
        raise ConfigError(f"no random model of the shape {shape.name}", "give the model itself")
    config = (Qwen2Config if shape.qkv_bias and not shape.output_bias else LlamaConfig)(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=max(4096, setup.seq_len),
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=0,
    )
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=_dtype(setup))


def measure_memory(model: torch.nn.Module, setup: StepSetup, *, limit: int | None = None) -> MemoryMeasurement:
    """Measure one training step on random tokens, with AdamW, on the model's device.

    The weights, in the dtype of ``setup.precision``, are counted in and changed. Raises MemoryLimitError (on the CPU,
    for more than ``limit`` bytes) or torch.OutOfMemoryError where memory is too small, and ConfigError for a model of
    another dtype and for an adapter.
    """
    if setup.adapter != "none":
        raise ConfigError(f"no measurement with the adapter {setup.adapter!r}", "wrap the model and train it")
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    if dtype != _dtype(setup):
        problem = f"the weights are {dtype}, precision {setup.precision} has {_dtype(setup)}"
        raise ConfigError(problem, "load the model with that dtype")
    if setup.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    generator = torch.Generator().manual_seed(0)
    vocab, size = model.get_output_embeddings().weight.shape[0], (setup.micro_batch_size, setup.seq_len)
    ids, labels = (torch.randint(0, vocab, size, generator=generator).to(device) for _ in range(2))
    weights = _bytes_of(model.parameters())
    with measured(device, limit=None if limit is None else max(limit - weights, 0)) as meter:
        # A first update at the smallest size makes the optimizer's states: later steps find them there.
        loss_and_entropy(model, ids[:1, :1], labels[:1, :1], setup)[0].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=not setup.grad_accumulation)
        outside = 0 if device.type == "cuda" else weights  # the tracker counts what is made inside
        meter.reset_peak()
        loss, entropy = loss_and_entropy(model, ids, labels, setup)
        forward = meter.peak
        meter.reset_peak()
        loss.backward()
        del loss, entropy  # logged after the backward, as in a training loop
        backward = meter.peak
        gradients = _bytes_of(p.grad for p in model.parameters() if p.grad is not None)
        meter.reset_peak()
        optimizer.step()
        update = meter.peak
        states = _bytes_of(v for s in optimizer.state.values() for v in s.values() if v.numel() > 1)
        optimizer.zero_grad(set_to_none=True)
    if setup.gradient_checkpointing:
        model.gradient_checkpointing_disable()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peaks = (peak + outside for peak in (forward, backward, update))
    return MemoryMeasurement(name, weights, gradients, states, *peaks)


def loss_and_entropy(
    model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor, setup: StepSetup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the mean negative log-probability and the entropies ``[B * T]``."""
    autocast = torch.autocast(ids.device.type, torch.bfloat16) if setup.precision == "mixed" else nullcontext()
    if setup.method == "one_pass":
        with autocast:
            hidden, head = run_to_head(model, {"input_ids": ids})  # [B, T, h]
        weight = 1.0 / labels.numel()
        loss, _, entropy = one_pass_loss(hidden.flatten(0, 1), head, labels.flatten(), weight, with_entropy=True)
        return loss, entropy
    with autocast:
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state  # [B, T, h]
        matrix = model.get_output_embeddings().weight  # [V, h]
        if setup.method == "chunked":
            method = partial(logprob_variants.recomputed, chunk=setup.chunk)
        else:
            method = getattr(logprob_variants, setup.method)
        log_probs, entropy = method(hidden.flatten(0, 1), matrix, labels.flatten())
    return -log_probs.mean(), entropy


def _dtype(setup: StepSetup) -> torch.dtype:
    return torch.bfloat16 if setup.precision == "bf16" else torch.float32


def _bytes_of(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
