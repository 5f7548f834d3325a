"""The processes of a distributed run (``torchrun``, ``accelerate launch``): rank, number, and exchange of values."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    import torch


def rank() -> int:
    """Return this process's number, from 0."""
    group = _group()
    return group.get_rank() if group else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Return how many processes the launcher started."""
    group = _group()
    return group.get_world_size() if group else int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Return whether this is the process that writes files and prints."""
    return rank() == 0


def join() -> None:
    """Connect the processes of a launch, once. With one process nothing happens."""
    if world_size() == 1 or _group() is not None:
        return
    import torch

    if "MASTER_ADDR" not in os.environ:
        problem = f"WORLD_SIZE is {world_size()}, but MASTER_ADDR is not set"
        raise ConfigError(problem, "launch it as recipes/accelerate shows")
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave() -> None:
    """Disconnect the processes at the end of a program, which NCCL asks for."""
    if _group() is not None:
        _object_group.cache_clear()
        _group().destroy_process_group()


def own_device() -> torch.device:
    """Return this process's GPU (``LOCAL_RANK``), or the CPU if PyTorch sees no GPU."""
    import torch

    cuda = torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")


def gather(value: Any) -> list[Any]:
    """Collect one value of each process, in order of rank, in every process."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _group().all_gather_object(values, value, group=_object_group())  # pickles, between processes of this run alone
    return values


@lru_cache
def _object_group() -> Any:
    # gloo waits on the CPU, where NCCL would keep a GPU busy that an engine may be using. The timeout is long, since
    # one process may sample for hours. If a process dies, the launcher ends the others.
    return _group().new_group(backend="gloo", timeout=timedelta(days=7))


def _group() -> Any:
    # torch.distributed, once the processes are connected; before that None.
    if "torch" not in sys.modules:
        return None
    import torch.distributed

    return torch.distributed if torch.distributed.is_available() and torch.distributed.is_initialized() else None
