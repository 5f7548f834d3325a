"""Preparations of a run: the type of the trained weights, what saving needs, and the versions in use."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from transformers.utils import logging as hf_logging

from cs336_sft.errors import ConfigError
from cs336_sft.training.config import SFTConfig
from cs336_sft.utils.files import JSONDict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "cs336-sft")


def set_weights_dtype(model: torch.nn.Module, config: SFTConfig) -> None:
    """Give the trained parameters the type ``config.weights_dtype``, in place.

    bfloat16 keeps 8 bits of a number and loses updates of relative size 1e-3, so float32 is usual. float64 stays.
    """
    dtype = getattr(torch, config.weights_dtype)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.float32, torch.bfloat16, torch.float16):
            parameter.data = parameter.data.to(dtype)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer as ``save_pretrained`` does, without its progress bar."""
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if bars:
            hf_logging.enable_progress_bar()


def check_saving(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save everything but the weights to a temporary folder, as the run will do."""
    parts = {"configuration": model.config, "tokenizer": tokenizer}
    if getattr(model, "generation_config", None) is not None:
        parts["generation configuration"] = model.generation_config
    with TemporaryDirectory() as folder:
        for name, part in parts.items():
            try:
                part.save_pretrained(folder)
            except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ConfigError(
                    f"the model's {name} can't be saved: {reason}", "correct it before training, with save_pretrained"
                ) from error


def versions(device: torch.device) -> JSONDict:
    """Return date, versions and device of a session."""
    packages: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    for name in packages:
        with suppress(metadata.PackageNotFoundError):  # the course itself, run from a checkout
            packages[name] = metadata.version(name)
    return {
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
