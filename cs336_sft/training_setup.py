"""What a run stands on: accelerate's state, float32 master weights, and a note of the versions in use."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers.modeling_layers import GradientCheckpointingLayer

from cs336_sft.errors import ConfigError
from cs336_sft.run_files import Record
from cs336_sft.sft_config import SFTConfig

_PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "cs336-sft")


@contextmanager
def run_accelerator(config: SFTConfig, run_dir: Path) -> Iterator[Accelerator]:
    """An ``Accelerator`` for this run alone.

    accelerate keeps its settings in one state per process and refuses a second run with another precision, which is
    what a notebook does. So the state is put aside and brought back.
    """
    outer = dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision, log_with=list(config.trackers) or None, project_dir=str(run_dir)
        )
        sharded = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
        if accelerator.distributed_type in sharded:
            raise ConfigError(
                f"accelerate was launched with {accelerator.distributed_type.value}, which shards the weights",
                "launch it with plain data parallelism (--multi_gpu), or train with LoRA",
            )
        yield accelerator
        accelerator.free_memory()
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(outer)


def to_master_weights(model: torch.nn.Module) -> None:
    """Half-precision parameters that are trained become float32, in place.

    An update of relative size 1e-3 or less is lost in bfloat16, which keeps 8 bits of a number.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


@contextmanager
def compiled_layers(model: torch.nn.Module, wanted: bool) -> Iterator[None]:
    """``torch.compile`` for each of the model's layers, while it lasts.

    Layer by layer, since all layers are one and the same code: it is compiled once, in seconds rather than minutes,
    and the rest of the model may be anything. For any batch size and length at once (``dynamic``): compiling anew for
    each shape would cost more than it brings, and a run that goes on would not use the kernels it began with.

    Raises:
        ConfigError: the model's layers can't be found.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)] if wanted else []
    if wanted and not layers:
        raise ConfigError(
            f"{type(model).__name__} has no layers that transformers marks as such, so there is nothing to compile",
            "set compile=False",
        )
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def session_facts(accelerator: Accelerator, from_step: int) -> Record:
    """Who works on the run from ``from_step`` on: date, versions and device."""
    device: torch.device = accelerator.device
    return {
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "from_step": from_step,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout
        return None
