"""What a sampler is: the one interface behind which Hugging Face generation and vLLM stand.

Training, evaluation and expert iteration take a ``Sampler`` as an argument and never import an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cs336_sft.errors import ConfigError
from cs336_sft.records import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class SamplingConfig:
    """How to continue a prompt. Field names follow vLLM's ``SamplingParams`` where it has one.

    Attributes:
        max_new_tokens: the generation limit, in tokens.
        temperature: 0 is greedy.
        top_p: nucleus sampling; 1 keeps the whole distribution.
        n: samples a prompt; more than one needs a temperature above 0.
        seed: with the prompt and the sample's number it fixes a sample, whatever else is in the batch.
        stop: generation ends once the text contains one of these.
        include_stop_str_in_output: keep the stop string at the end of ``text`` (the ids always keep it).
        min_new_tokens: end-of-text is forbidden before this many tokens.
        record_entropy: fill ``Generation.logprobs`` and ``Generation.entropies``.

    Raises:
        ConfigError: a field out of range; the message names the field, the value and the remedy.

    >>> SamplingConfig(max_new_tokens=160).temperature
    0.0
    """

    max_new_tokens: int = 160
    temperature: float = 0.0
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = True
    min_new_tokens: int = 0
    record_entropy: bool = False

    def __post_init__(self) -> None:
        def demand(ok: bool, field: str, remedy: str) -> None:
            if not ok:
                raise ConfigError(f"SamplingConfig.{field} is {getattr(self, field)!r}", remedy)

        for field, least, remedy in (
            ("max_new_tokens", 1, "give at least 1 token, as a whole number"),
            ("n", 1, "give at least 1 sample, as a whole number"),
            ("seed", None, "give a whole number"),
            ("min_new_tokens", 0, f"give 0 to max_new_tokens ({self.max_new_tokens})"),
        ):
            value = getattr(self, field)
            demand(type(value) is int and (least is None or value >= least), field, remedy)
        for field in ("include_stop_str_in_output", "record_entropy"):
            demand(isinstance(getattr(self, field), bool), field, "give True or False")
        demand(
            _is_number(self.temperature) and 0.0 <= self.temperature < float("inf"),
            "temperature",
            "give 0 (greedy) or a positive number",
        )
        demand(_is_number(self.top_p) and 0.0 < self.top_p <= 1.0, "top_p", "give a number above 0 and at most 1")
        demand(
            self.n == 1 or self.temperature > 0,
            "n",
            "greedy samples are all the same: raise temperature above 0, or ask for n=1",
        )
        demand(
            isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
            "stop",
            "give a tuple of non-empty strings",
        )
        demand(
            self.min_new_tokens <= self.max_new_tokens,
            "min_new_tokens",
            f"give 0 to max_new_tokens ({self.max_new_tokens})",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@runtime_checkable
class Sampler(Protocol):
    """Continues prompts. One list of ``sampling.n`` generations for each prompt, in the order of the prompts."""

    def generate(self, prompts: Sequence[str], sampling: SamplingConfig) -> list[list[Generation]]: ...

    def update_weights(self, model: PreTrainedModel) -> None:
        """Make the sampler use these weights from now on (nothing to do where it holds the model itself).

        A sampler that holds a copy raises `StaleEngineError` from `generate` if the model was trained since.
        """
        ...
