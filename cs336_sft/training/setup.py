"""What a run stands on: accelerate's state, the type of the trained weights, and a note of the versions in use."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging as hf_logging

from cs336_sft.errors import ConfigError
from cs336_sft.training.config import SFTConfig
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "cs336-sft")


@contextmanager
def run_accelerator(config: SFTConfig, run_dir: Path) -> Iterator[Accelerator]:
    """An ``Accelerator`` for this run alone.

    accelerate keeps its settings in one state per process and refuses a second run with another precision, which is
    what a notebook does. So the state is put aside and brought back.

    Raises:
        ConfigError: a launcher started several processes, and accelerate knows of one.
    """
    processes.join()
    outer = dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=list(config.trackers) or None,
            project_dir=str(run_dir),
            cpu=processes.world_size() > 1 and not torch.cuda.is_available(),
        )
        yield accelerator
        accelerator.free_memory()
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(outer)


def set_weights_dtype(model: torch.nn.Module, config: SFTConfig) -> None:
    """Give the parameters that are trained the type of ``config.weights_dtype``, in place.

    An update of relative size 1e-3 or less is lost in bfloat16, which keeps 8 bits of a number; so float32 is usual.
    """
    dtype = getattr(torch, config.weights_dtype)
    for parameter in model.parameters():
        # Double precision, where somebody chose it, is not for us to take away.
        if parameter.requires_grad and parameter.dtype in (torch.float32, torch.bfloat16, torch.float16):
            parameter.data = parameter.data.to(dtype)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Model and tokenizer as ``save_pretrained`` writes them."""
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # a bar for writing one file is in the way of ours
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if bars:
            hf_logging.enable_progress_bar()


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
    facts = versions(accelerator.device)
    return facts | {"from_step": from_step, "processes": accelerator.num_processes}


def versions(device: torch.device) -> Record:
    """Date, versions and device of a session.

    >>> versions(torch.device("cpu"))["device"]
    'cpu'
    """
    return {
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout
        return None
