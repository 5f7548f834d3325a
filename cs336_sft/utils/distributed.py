"""The processes of a distributed run (``accelerate launch``, ``torchrun``): who writes, and who samples what.

Without such a launch there is one process, and everything here is as if it were not there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.records import Generation

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def rank() -> int:
    """This process's number, from 0."""
    group = _group()
    return group.get_rank() if group else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes the launcher started.

    >>> world_size()
    1
    """
    group = _group()
    return group.get_world_size() if group else int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes files and prints.

    >>> is_main()
    True
    """
    return rank() == 0


def join() -> None:
    """Let the processes of a launch know of one another. Nothing happens where there is one, or where they do already.

    Raises:
        ConfigError: accelerate knows of fewer processes than the launcher started.

    >>> join()
    """
    started = world_size()
    if started == 1:
        return
    import torch
    from accelerate import PartialState

    # Unless told so, accelerate does not let processes on a CPU know of one another.
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes != started:
        raise ConfigError(
            f"the launcher started {started} processes, accelerate knows of {state.num_processes}",
            "launch it as recipes/accelerate shows",
        )


def own_device() -> torch.device:
    """Where this process computes: a GPU of its own (``LOCAL_RANK``), or the CPU where PyTorch sees none.

    >>> own_device().type in ("cpu", "cuda")
    True
    """
    import torch

    cuda = torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")


def gather(value: Any) -> list[Any]:
    """The values of all processes, in their order, in every process.

    >>> gather(5)
    [5]
    """
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    _group().all_gather_object(values, value, group=_line())  # pickles, between processes of this run alone
    return values


class SharedSampler:
    """Shares the prompts out among the processes that have a sampler; every process gets all generations.

    Each process has to call ``generate``, with the same prompts. A sample depends on seed, prompt and number alone, so
    the result is that of one process.

    Args:
        sampler: this process's own; None where it has none (an engine that only the main process started).

    >>> class Parrot:
    ...     def generate(self, prompts, sampling):
    ...         return [[Generation(prompt, (1,), prompt, "stop")] for prompt in prompts]
    >>> [samples[0].text for samples in SharedSampler(Parrot()).generate(["a", "b"], SamplingConfig())]
    ['a', 'b']
    """

    def __init__(self, sampler: Sampler | None) -> None:
        self.sampler = sampler

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """As `Sampler.generate`. An error in one process is raised in all of them; none waits for ever."""
        if world_size() == 1:
            return self.sampler.generate(prompts, sampling)
        sharing = [number for number, shares in enumerate(gather(self.sampler is not None)) if shares]
        own: list[list[Generation]] = []
        failed: Exception | None = None
        if self.sampler is not None:
            share = prompts[sharing.index(rank()) :: len(sharing)]
            try:
                own = self.sampler.generate(share, sampling) if share else []
            except Exception as error:  # whatever it is: the others must hear of it
                failed = error
        parts = gather((own, None if failed is None else f"{type(failed).__name__}: {failed}"))
        if failed is not None:
            raise failed
        for number, (_, problem) in enumerate(parts):
            if problem is not None:
                raise RuntimeError(f"process {number} could not sample: {problem}")
        shares = [parts[number][0] for number in sharing]
        return [shares[index % len(sharing)][index // len(sharing)] for index in range(len(prompts))]

    def update_weights(self, model: PreTrainedModel) -> None:
        """As `Sampler.update_weights`, where there is one."""
        if self.sampler is not None:
            self.sampler.update_weights(model)


class LedSampler:
    """Lets the other processes help the main one, which alone runs a loop, to sample; they wait in `follow`.

    Args:
        sampler: this process's own; None where it has none.
    """

    def __init__(self, sampler: Sampler | None) -> None:
        self._shared = SharedSampler(sampler)

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """As `Sampler.generate`; in the main process alone."""
        gather((list(prompts), sampling))
        return self._shared.generate(prompts, sampling)

    def update_weights(self, model: PreTrainedModel) -> None:
        """As `Sampler.update_weights`, of the main process's; the others' samplers hold the model that they train."""
        self._shared.update_weights(model)

    def release(self) -> None:
        """Let the others go on from `follow`."""
        gather(None)

    def follow(self) -> None:
        """Sample shares for the main process until it releases this one."""
        while (work := gather(None)[0]) is not None:
            self._shared.generate(*work)


@lru_cache
def _line() -> Any:
    """What objects are exchanged over: gloo, which waits on the CPU, where NCCL would keep a GPU busy that an engine
    may be using. As long as need be: one process may sample for hours, and if it dies the launcher ends the others."""
    return _group().new_group(backend="gloo", timeout=timedelta(days=7))


def _group() -> Any:
    """``torch.distributed`` once its processes know of each other, which training sees to; before that None."""
    if "torch" not in sys.modules:
        return None
    import torch.distributed

    return torch.distributed if torch.distributed.is_available() and torch.distributed.is_initialized() else None
