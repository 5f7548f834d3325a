"""The records that flow through the course, in one direction.

``Problem`` -> prompt text -> ``Generation`` -> ``Graded`` -> metrics, or a training ``Example`` -> ``Batch`` -> loss.
All are frozen dataclasses: nothing downstream can change what was measured upstream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Problem:
    """One word problem in GSM8K's form.

    >>> Problem("2 + 3?", "2+3 = <<2+3=5>>5\\n#### 5", "5").final
    '5'
    """

    question: str
    answer: str  # the reference answer: reasoning with calculator annotations `<<48/2=24>>`, last line `#### N`
    final: str  # the final answer as a plain decimal string, without thousands separators: "1080"
    id: str = ""  # stable between runs: "gsm8k/train/17"
    template: str = ""  # the situation template of a generated problem, empty for GSM8K


@dataclass(frozen=True)
class Generation:
    """One sampled continuation of a prompt. Log-probabilities and entropies (nats) are at temperature 1, or None."""

    prompt: str
    token_ids: tuple[int, ...]  # every generated id, with the end-of-text id if it was produced, without padding
    text: str  # the decoded continuation, without the end-of-text token, cut at a stop string if there was one
    finish_reason: FinishReason  # "stop" for an end-of-text token or a stop string, "length" for the limit
    stop_reason: str | None = None  # the stop string that ended it; None for end-of-text and for the limit
    sample: int = 0  # number of this sample among those of its prompt
    logprobs: tuple[float, ...] | None = None  # of each id
    entropies: tuple[float, ...] | None = None  # of the next-token distribution at each position


@dataclass(frozen=True)
class Graded:
    """A generation, its problem and its rewards (0.0 or 1.0 each)."""

    problem: Problem
    generation: Generation
    format_reward: float  # the response has the structure that the prompt demands
    answer_reward: float  # the answer in that structure equals the reference
    reward: float  # `format_reward * answer_reward`; `accuracy` is its mean
    lenient: float  # any readable final answer equals the reference; `accuracy_lenient` is its mean


@dataclass(frozen=True)
class Example:
    """One training sequence: the model sees both parts, the loss counts the response only.

    Ids rather than text, so that expert iteration trains on exactly the tokens that were sampled.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class Batch:
    """Padded tensors of one microbatch, each of shape ``[B, T]``."""

    input_ids: torch.Tensor  # int64, the sequence without its last token
    labels: torch.Tensor  # int64, the sequence without its first token: what each position must predict
    response_mask: torch.Tensor  # bool, True where the label is a response token (end-of-text included, padding never)
    attention_mask: torch.Tensor  # bool, True on real tokens of `input_ids`
