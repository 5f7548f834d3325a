"""The facts of this machine: cores and memory that the process may use, GPUs, versions, data that is at hand."""

from __future__ import annotations

import math
import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cs336_sft.data.download import ARTIFACT_NAMES, data_folder, is_fetched

_GIB = 2**30
_PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "numpy", "vllm", "peft", "bitsandbytes", "datasets")


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, memory in GiB, and whether it computes in bfloat16."""

    name: str
    memory_gib: float
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """What is here.

    Attributes:
        cores: CPU cores that this process may use: affinity and the container's quota count, not what is built in.
        memory_gib: memory that this process may use, in GiB; the container's limit counts.
        memory_free_gib, disk_free_gib: what is free of it now, and on the disk of the current folder.
        versions: package -> version; a package that is not installed is missing.
        gsm8k: the folder that ``CS336_GSM8K`` names if both files are in it, else None.
        gsm8k_note: why ``gsm8k`` is None, or empty.
        fetched: artifact -> whether ``cs336-sft fetch`` has brought it.
    """

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
    """Collect the facts; takes as long as importing PyTorch.

    >>> look_at_machine().cores >= 1
    True
    """
    import psutil

    memory = psutil.virtual_memory()
    limit = cgroup_memory_limit()
    total = min(memory.total, limit) if limit else memory.total
    gsm8k, gsm8k_note = find_gsm8k()
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return Machine(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cores=usable_cores(),
        memory_gib=round(total / _GIB, 1),
        memory_free_gib=round(min(memory.available, total) / _GIB, 1),
        disk_free_gib=round(shutil.disk_usage(Path.cwd()).free / _GIB, 1),
        gpus=find_gpus(),
        versions=versions,
        gsm8k=gsm8k,
        gsm8k_note=gsm8k_note,
        data_folder=str(data_folder()),
        fetched={name: is_fetched(name) for name in ARTIFACT_NAMES},
    )


def find_gpus() -> tuple[Gpu, ...]:
    """The CUDA devices that PyTorch sees."""
    import torch

    if not torch.cuda.is_available():
        return ()
    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        # Native bfloat16 came with compute capability 8.0 (Ampere); older cards only emulate it.
        gpus.append(Gpu(properties.name, round(properties.total_memory / _GIB, 1), properties.major >= 8))
    return tuple(gpus)


def find_gsm8k() -> tuple[str | None, str]:
    """The folder of ``CS336_GSM8K``, or None and the reason."""
    named = os.environ.get("CS336_GSM8K")
    if not named:
        return None, "CS336_GSM8K is unset"
    missing = [name for name in ("train.jsonl", "test.jsonl") if not (Path(named) / name).is_file()]
    if missing:
        return None, f"CS336_GSM8K names {named}, which has no {missing[0]}"
    return named, ""


def usable_cores(root: Path = Path("/")) -> int:
    """Cores by affinity, or fewer where a container's quota is smaller (Linux control groups, version 1 and 2).

    Args:
        root: of the file system that is looked at.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for folder in _cgroup_folders(root):
        quota = _numbers(folder / "cpu.max")
        if len(quota) == 2:
            cores = min(cores, math.ceil(quota[0] / quota[1]))
    v1 = root / "sys/fs/cgroup/cpu"
    quota, period = _numbers(v1 / "cpu.cfs_quota_us"), _numbers(v1 / "cpu.cfs_period_us")
    if quota and period and quota[0] > 0:
        cores = min(cores, math.ceil(quota[0] / period[0]))
    return max(cores, 1)


def cgroup_memory_limit(root: Path = Path("/")) -> int | None:
    """The container's memory limit in bytes, or None."""
    limits = [_numbers(folder / "memory.max") for folder in _cgroup_folders(root)]
    limits.append(_numbers(root / "sys/fs/cgroup/memory/memory.limit_in_bytes"))
    # Version 1 writes "no limit" as a number near 2^63.
    found = [int(limit[0]) for limit in limits if len(limit) == 1 and limit[0] < 2**60]
    return min(found, default=None)


def _cgroup_folders(root: Path) -> list[Path]:
    """The version-2 control group of this process and all above it: the tightest limit of them holds."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return [top]
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    parts = [part for part in own.split("/") if part not in ("", "..")]
    return [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _numbers(path: Path) -> list[float]:
    """The numbers in a one-line file; empty where there is no such file or it says ``max``."""
    try:
        return [float(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
