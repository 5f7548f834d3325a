"""The memory of a training step, measured: what ``memory_estimate`` estimates, on the machine at hand.

On the CPU ``MemoryTracker`` counts; on a GPU PyTorch's allocator does. Either way the bytes are those of live tensors,
so that the two can be compared with each other and with the estimate.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from cs336_sft.errors import ConfigError
from cs336_sft.model import logprob_variants
from cs336_sft.model.chunked_head import one_pass_loss
from cs336_sft.model.memory_estimate import StepSetup
from cs336_sft.model.memory_tracker import MemoryTracker
from cs336_sft.model.output_head import run_to_head
from cs336_sft.model.shape import ModelShape


@dataclass(frozen=True)
class MemoryMeasurement:
    """Bytes of live tensors in one training step."""

    device: str  # cpu, or the name of the GPU
    weights: int  # after the update, exact, as the next two
    gradients: int
    states: int
    forward: int  # peak from the start to the end of the loss
    backward: int  # peak of what follows, and so on
    update: int

    @property
    def peak(self) -> int:
        """Bytes at the worst moment of the step, weights and states included."""
        return max(self.forward, self.backward, self.update)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, sizes in bytes."""
        return asdict(self) | {"peak": self.peak}


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
        """Start a new peak at what is live now."""
        torch.cuda.reset_peak_memory_stats(self._device)


@contextmanager
def measured(device: str | torch.device = "cpu", *, limit: int | None = None) -> Iterator[MemoryTracker | GpuMeter]:
    """Count the bytes of a device's tensors inside the block.

    On the CPU those that are made inside, and at most ``limit`` (``MemoryLimitError``); on a GPU all that are live.

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
        with MemoryTracker(device.type, limit=limit) as tracker:
            yield tracker


def build_model(shape: ModelShape, setup: StepSetup, device: str | torch.device = "cpu") -> torch.nn.Module:
    """Build a model of a shape with random weights, as Qwen2 or Llama.

    Raises:
        ConfigError: the shape has norms on queries and keys; or the setup has adapters.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    if shape.qk_norm != "none":
        raise ConfigError(f"no random model of the shape {shape.name}", "give the model itself")
    sizes = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": max(4096, setup.seq_len),
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    config = Qwen2Config(**sizes) if shape.qkv_bias and not shape.output_bias else LlamaConfig(**sizes)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=_dtype(setup))


def measure_memory(
    model: torch.nn.Module, setup: StepSetup, *, seed: int = 0, limit: int | None = None
) -> MemoryMeasurement:
    """Measure one training step on random tokens, with AdamW, on the model's device.

    The weights, in the dtype of ``setup.precision``, are counted in and changed.

    Raises:
        MemoryLimitError: on the CPU, more than ``limit`` bytes would be alive, weights included.
        ConfigError: the model's dtype is not that of the setup, or an adapter is asked for.
        torch.OutOfMemoryError: on a GPU that is too small.
    """
    if setup.adapter != "none":
        raise ConfigError(f"no measurement with the adapter {setup.adapter!r}", "wrap the model and train it")
    if next(model.parameters()).dtype != _dtype(setup):
        raise ConfigError(
            f"the weights are {next(model.parameters()).dtype}, precision {setup.precision} has {_dtype(setup)}",
            "load the model with that dtype",
        )
    device = next(model.parameters()).device
    _set_checkpointing(model, setup.gradient_checkpointing)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    generator = torch.Generator().manual_seed(seed)
    vocab = model.get_output_embeddings().weight.shape[0]
    ids, labels = (
        torch.randint(0, vocab, (setup.micro_batch_size, setup.seq_len), generator=generator).to(device) for _ in "il"
    )

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
    _set_checkpointing(model, False)
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


def _set_checkpointing(model: torch.nn.Module, on: bool) -> None:
    if on:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif getattr(model, "is_gradient_checkpointing", False):
        model.gradient_checkpointing_disable()
