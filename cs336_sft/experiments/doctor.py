"""What this machine can run: cores, memory, GPUs, versions, and data that is at hand."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cs336_sft.data.download import ARTIFACT_NAMES, data_folder, is_fetched

_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "vllm", "peft", "bitsandbytes", "datasets")
# GiB that PyTorch reserved to train 1.5 billion parameters, eight sequences at once: plain, and with checkpointing, as
# recorded/methods/memory_1.5b.json has them (a test compares). CUDA and a display take OTHERS_GIB on top.
STEP_GIB = {"full": (35.72, 28.08), "lora": (16.09, 4.38), "qlora": (12.16, 2.56)}
OTHERS_GIB = 1.0


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; ``bf16``: it computes in bfloat16."""

    name: str
    memory_gib: float
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """The facts of a machine: ``versions`` of installed packages, ``fetched`` artifacts that are here, and so on."""

    python: str
    system: str
    cores: int
    memory_gib: float
    memory_free_gib: float
    disk_free_gib: float
    gpus: tuple[Gpu, ...]
    versions: dict[str, str]
    gsm8k: str | None
    gsm8k_note: str
    data_folder: str
    fetched: dict[str, bool]


def look_at_machine() -> Machine:
    """Collect the facts, which takes as long as importing PyTorch."""
    import psutil
    import torch

    devices = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    memory = psutil.virtual_memory()
    gsm8k, gsm8k_note = find_gsm8k()
    versions = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=usable_cores(),
        memory_gib=_gib(memory.total),
        memory_free_gib=_gib(memory.available),
        disk_free_gib=_gib(shutil.disk_usage(Path.cwd()).free),
        # Native bfloat16 came with compute capability 8.0 (Ampere); older cards only emulate it.
        gpus=tuple(Gpu(device.name, _gib(device.total_memory), device.major >= 8) for device in devices),
        versions=versions,
        gsm8k=gsm8k,
        gsm8k_note=gsm8k_note,
        data_folder=str(data_folder()),
        fetched={name: is_fetched(name) for name in ARTIFACT_NAMES},
    )


def _gib(size: int) -> float:
    return round(size / 2**30, 1)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def find_gsm8k() -> tuple[str | None, str]:
    """Return the folder of ``CS336_GSM8K``, or None and the reason."""
    named = os.environ.get("CS336_GSM8K")
    if not named:
        return None, "CS336_GSM8K is unset"
    for name in ("train.jsonl", "test.jsonl"):
        if not Path(named, name).is_file():
            return None, f"CS336_GSM8K names {named}, which has no {name}"
    return named, ""


def check_profiles(machine: Machine) -> dict[str, dict[str, Any]]:
    """Return for each profile if this machine ``runs`` it now, with a ``note``."""
    memory = max((gpu.memory_gib for gpu in machine.gpus), default=0.0)
    no_gsm8k = [] if machine.gsm8k or "datasets" in machine.versions else [f"GSM8K: {machine.gsm8k_note}"]

    def missing(name: str) -> list[str]:
        return no_gsm8k + ([] if machine.fetched.get(name) else [f"run `cs336-sft fetch {name}`"])

    smollm2, coder = missing("smollm2"), missing("qwen2.5-coder-1.5b")
    methods = {}
    for method, (plain, checkpointed) in STEP_GIB.items():
        if plain + OTHERS_GIB <= memory:
            methods[method] = "fits"
        elif checkpointed + OTHERS_GIB <= memory:
            methods[method] = "fits with --gradient-checkpointing"
        else:
            methods[method] = f"needs a GPU of {checkpointed + OTHERS_GIB:.1f} GiB"
    fits = any(checkpointed + OTHERS_GIB <= memory for _, checkpointed in STEP_GIB.values())
    qwen = ", ".join(f"{method} {note}" for method, note in methods.items())
    small = machine.memory_gib < 2
    place = "on the GPU" if machine.gpus else "on the CPU, with patience"
    return {
        "tiny": {"runs": not small, "note": "less than 2 GB of memory" if small else "everything it needs is here"},
        "smollm2": {"runs": not smollm2, "note": "; ".join(smollm2) or place},
        "qwen2.5-math-1.5b": {"runs": fits and not no_gsm8k, "note": "; ".join([qwen, *no_gsm8k])},
        "qwen2.5-coder-1.5b": {"runs": fits and not coder, "note": "; ".join([qwen, *coder])},
    }
