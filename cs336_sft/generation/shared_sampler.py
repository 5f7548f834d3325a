"""Sampling with several processes (``accelerate launch``, ``torchrun``): each generates a part of the prompts.

With one process the sampler here behaves like the one that it wraps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.records import Generation
from cs336_sft.utils import distributed as processes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SharedSampler:
    """Splits the prompts among the processes that have a sampler; every process gets all generations.

    Each process has to call ``generate`` with the same prompts; the result equals that of one process. ``sampler`` is
    this process's own; None where it has none (an engine that only the main process started).
    """

    def __init__(self, sampler: Sampler | None) -> None:
        self.sampler = sampler

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """Generate as `Sampler.generate` does. An error of one process is raised in all."""
        if processes.world_size() == 1:
            return self.sampler.generate(prompts, sampling)
        samplers = [number for number, present in enumerate(processes.gather(self.sampler is not None)) if present]
        own: list[list[Generation]] = []
        failed: Exception | None = None
        if self.sampler is not None:
            part = prompts[samplers.index(processes.rank()) :: len(samplers)]
            try:
                own = self.sampler.generate(part, sampling) if part else []
            except Exception as error:  # re-raised in every process, or the others would wait forever
                failed = error
        results = processes.gather((own, None if failed is None else f"{type(failed).__name__}: {failed}"))
        if failed is not None:
            raise failed
        for number, (_, problem) in enumerate(results):
            if problem is not None:
                raise RuntimeError(f"process {number} could not sample: {problem}")
        parts = [results[number][0] for number in samplers]
        return [parts[index % len(samplers)][index // len(samplers)] for index in range(len(prompts))]

    def update_weights(self, model: PreTrainedModel) -> None:
        """Update this process's sampler, if it has one."""
        if self.sampler is not None:
            self.sampler.update_weights(model)
