"""The interface of a sampler, which Hugging Face generation and vLLM both implement, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cs336_sft.records import Generation
from cs336_sft.utils.validation import check_counts, check_field, check_flags, is_number

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SamplingConfig:
    """How to continue a prompt. Field names follow vLLM's ``SamplingParams`` where possible.

    Attributes:
        max_new_tokens: most tokens that are generated.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 keeps the whole distribution.
        num_samples: samples of each prompt; more than one needs a temperature above 0.
        seed: together with the prompt and the sample's number it fixes a sample, whatever else is in the batch.
        stop: generation ends when the text, special tokens included, contains one of these strings,
            which ``text`` then ends with.
        min_new_tokens: end-of-text is forbidden before this many tokens.
        record_entropy: record each token's log-probability and, with Hugging Face, the entropy of its distribution.

    Raises ConfigError: a field is out of range; the message names the field, the value and the remedy.
    """

    max_new_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 1.0
    num_samples: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_new_tokens: int = 0
    record_entropy: bool = False

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

    Every sampler promises: the same seed and prompts give the same samples; other prompts in the call don't change
    them (up to rounding where logits nearly tie); the samples of a prompt differ from each other; and the samples for
    ``num_samples=2`` are the first two of those for ``num_samples=4``. Two kinds of samplers draw different numbers.
    """

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]:
        """Generate ``sampling.num_samples`` continuations of each prompt, in order."""
        ...

    def update_weights(self, model: PreTrainedModel) -> None:
        """Use this model's weights from now on.

        A sampler that holds a copy raises `StaleEngineError` from `generate` if the model was trained since.
        """
        ...
