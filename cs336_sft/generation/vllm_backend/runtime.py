"""vLLM in this process: importing it with the settings it needs, and undoing what an engine changes in the process."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from types import ModuleType

import numpy as np
import torch
from packaging.version import Version

from cs336_sft.errors import ConfigError, CourseError

OLDEST = Version("0.25")  # the first that was tested; weights are reloaded layer by layer

_DEFAULTS = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the engine shares its cores with the trainer
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # reloading weights was tested with the first model runner
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles kernels on first use, and does not serve seeded requests
}
_OF_LAUNCHERS = ("RANK", "LOCAL_RANK", "GROUP_", "ROLE_", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_", "TORCHELASTIC_")


def import_vllm() -> ModuleType:
    """Import vLLM with the settings above. ConfigError: it is missing or too old."""
    version = vllm_version()
    if version is None:
        raise ConfigError(
            "vLLM is not installed",
            "install it (docs/real-models.md: pip install 'cs336-sft[vllm]' on a machine with an NVIDIA GPU, "
            "`make test-vllm` for a CPU), or use the Hugging Face sampler (--sampler hf)",
        )
    if version < OLDEST:
        raise ConfigError(f"vLLM {version} is too old", f"install vLLM {OLDEST} or newer, or use --sampler hf")
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import vllm

    return vllm


def vllm_version() -> Version | None:
    for name in ("vllm", "vllm-cpu"):  # the CPU build of the package index has a name of its own
        try:
            return Version(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return None


def on_cpu() -> bool:
    import_vllm()
    from vllm.platforms import current_platform

    return current_platform.is_cpu()


@contextmanager
def process_kept() -> Iterator[None]:
    """Restore random states and the function ``torch.set_num_threads``."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    set_num_threads, python, numpy = torch.set_num_threads, random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_num_threads = set_num_threads
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables (None: unset), and restore them on leaving."""
    before = {name: os.environ.pop(name, None) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def placement(own_process: bool, gpu: int | None = None) -> dict[str, str | None]:
    """Choose the environment variables that decide where an engine starts."""
    if not own_process:
        return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    # With a launcher's variables (torchrun, accelerate launch) the engine's process would wait for the other trainers.
    values: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_OF_LAUNCHERS)}
    values |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(number) for number in range(gpu + 1)]
        if gpu >= len(names):
            raise ConfigError(f"GPU {gpu} was asked for, {len(names)} are visible", "name another device")
        values["CUDA_VISIBLE_DEVICES"] = names[gpu]
    return values


def check_no_engine_here() -> None:
    """Refuse a second engine: vLLM keeps its parallel groups in one place."""
    from vllm.distributed import parallel_state

    if parallel_state.model_parallel_is_initialized():
        problem = "another vLLM engine lives in this process"
        raise CourseError(problem, "close it first (sampler.close() or llm.close()), or push new weights into it")


def forget_engine(distributed_before: bool) -> None:
    """Remove what an engine in this process leaves behind once its objects are gone."""
    from vllm.distributed import parallel_state
    from vllm.model_executor.model_loader.reload import layerwise

    # A dictionary with weak keys, whose values are methods of those very layers: it would keep the weights alive.
    layerwise.LAYERWISE_INFO.clear()
    gc.unfreeze()  # an engine freezes the heap that it finds, and so would keep itself alive
    parallel_state.destroy_model_parallel()
    if not distributed_before:
        parallel_state.destroy_distributed_environment()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
