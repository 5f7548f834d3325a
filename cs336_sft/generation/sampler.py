"""The settings and the interface of samplers (Hugging Face's and vLLM's), and one that several processes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cs336_sft.records import Generation
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.validation import check_counts, check_field, check_flags, is_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SamplingConfig:
    """How to continue a prompt. Field names follow vLLM's ``SamplingParams`` where possible."""

    max_new_tokens: int = 160
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # nucleus sampling; 1 keeps the whole distribution
    num_samples: int = 1  # samples of each prompt; more than one needs a temperature above 0
    seed: int = 0  # with the prompt and the sample's number it fixes a sample, whatever else is in the batch
    stop: tuple[str, ...] = ()  # generation ends when the text, special tokens included, contains one of these
    min_new_tokens: int = 0  # end-of-text is forbidden before
    record_entropy: bool = False  # record log-probabilities and, with Hugging Face, entropies of the tokens

    def __post_init__(self) -> None:
        check_counts(self, "max_new_tokens", "num_samples")
        check_counts(self, "min_new_tokens", least=0)
        check_flags(self, "record_entropy")
        check_field(type(self.seed) is int, self, "seed", "give a whole number")
        valid = is_number(self.temperature) and self.temperature >= 0
        check_field(valid, self, "temperature", "give 0 (greedy) or a positive number")
        valid = is_number(self.top_p) and 0 < self.top_p <= 1
        check_field(valid, self, "top_p", "give a number above 0 and at most 1")
        valid = self.num_samples == 1 or self.temperature > 0
        check_field(valid, self, "num_samples", "greedy samples are all the same: raise temperature, or ask for 1")
        valid = isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop)
        check_field(valid, self, "stop", "give a tuple of non-empty strings")
        valid = self.min_new_tokens <= self.max_new_tokens
        check_field(valid, self, "min_new_tokens", f"give 0 to max_new_tokens ({self.max_new_tokens})")


@runtime_checkable
class Sampler(Protocol):
    """Continues prompts.

    Every sampler promises: the same seed and prompts give the same samples, which other prompts don't change (up to
    rounding); the samples of a prompt differ; and the samples for ``num_samples=2`` are the first two of those for
    ``num_samples=4``. Two kinds of samplers draw different numbers.
    """

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """Generate ``sampling.num_samples`` continuations of each prompt, in order."""
        ...

    def update_weights(self, model: PreTrainedModel) -> None:
        """Use this model's weights. A copy of them is stale once the model is trained."""
        ...


class SharedSampler:
    """Splits the prompts among the processes of a launch that have a sampler; every process gets all generations.

    All call ``generate`` with the same prompts. ``sampler`` is None in a process without one (an engine elsewhere).
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
