"""Does a model know when to stop? Where its first answer stands, how an output ended, how likely it is to stop there.

``trunc_rate`` counts two things that have nothing in common: outputs that were cut before their answer, which a higher
limit mends, and outputs whose answer was long out, which it only makes longer. Here they are told apart.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.generation.response_text import decode_response
from cs336_sft.grading.response_end import cut_position
from cs336_sft.records import Example, FinishReason, Graded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The first number on a line after ####. "#### 63+63 = 126" has 63: what the model would have said, had it stopped.
GSM8K_ANSWER = re.compile(r"####[^\n\d]*\d+(?:,\d{3})*(?:\.\d+)?")


@dataclass(frozen=True)
class AnswerSpan:
    """Where an answer stands in a generation, in tokens.

    Attributes:
        start: tokens generated when the answer begins: a limit of ``start`` or less shows nothing of it.
        end: tokens generated when it is complete: the lowest limit that shows all of it.
    """

    start: int
    end: int


def find_first_answer(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], pattern: re.Pattern[str] = GSM8K_ANSWER
) -> AnswerSpan | None:
    """The first answer in generated ids, or None; only what stands before another problem begins is searched.

    The grader reads the *last* answer of that part, so a generation that goes on after its first may be graded by
    another one.

    Args:
        pattern: matches a whole answer in the decoded text; by default ``####`` with a number on its line.

    >>> class Bytes:
    ...     def decode(self, ids, **settings):
    ...         return bytes(ids).decode(errors="replace")
    >>> find_first_answer(Bytes(), b"9*2 = 18\\n#### 18\\n\\nQuestion: And now?")
    AnswerSpan(start=9, end=16)
    >>> find_first_answer(Bytes(), b"9*2 = 18\\n####") is None
    True
    >>> find_first_answer(Bytes(), b"It is 18.\\n\\nQuestion: And now?\\n#### 3") is None
    True
    """
    ids = list(token_ids)
    text = decode_response(tokenizer, ids)
    found = pattern.search(text, 0, cut_position(text))
    if found is None:
        return None
    # The token that holds the answer's first character belongs to it.
    start = tokens_until(tokenizer, ids, text[: found.start() + 1]) - 1
    return AnswerSpan(start, tokens_until(tokenizer, ids, text[: found.end()]))


def find_recorded_answer(
    text: str, token_ends: Sequence[int], pattern: re.Pattern[str] = GSM8K_ANSWER
) -> AnswerSpan | None:
    """`find_first_answer` for a recorded generation, whose tokens are known by the characters that each adds.

    Args:
        token_ends: see ``sweep_record.token_ends``.

    >>> find_recorded_answer("so\\n#### 18", [2, 1, 4, 1, 1, 1, 0])
    AnswerSpan(start=2, end=6)
    """
    found = pattern.search(text, 0, cut_position(text))
    if found is None:
        return None
    reached = list(accumulate(token_ends))  # characters that the first 1, 2, ... tokens show
    return AnswerSpan(bisect_left(reached, found.start() + 1), bisect_left(reached, found.end()) + 1)


def tokens_until(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], beginning: str) -> int:
    """How many of the ids it takes for their text to hold ``beginning``, by bisection.

    ``startswith`` rather than lengths: half a UTF-8 character decodes to several replacement characters, so the text
    of more ids may be shorter.

    Raises:
        DataError: the text of all the ids does not begin so.

    >>> class Bytes:
    ...     def decode(self, ids, **settings):
    ...         return bytes(ids).decode(errors="replace")
    >>> tokens_until(Bytes(), "5 £ 6".encode(), "5 £")  # the pound sign is two bytes
    4
    """
    if not decode_response(tokenizer, ids).startswith(beginning):
        raise DataError("the text of these ids has another beginning", "give a beginning of their decoded text")
    low, high = 0, len(ids)  # ids[:high] is enough
    while low < high:
        middle = (low + high) // 2
        if decode_response(tokenizer, ids[:middle]).startswith(beginning):
            high = middle
        else:
            low = middle + 1
    return high


def count_endings(graded: Sequence[Graded]) -> dict[tuple[FinishReason, bool], int]:
    """The 2x2 of finish reason against answer found: ``(finish_reason, has the format) -> generations``.

    >>> from cs336_sft.records import Generation, Problem
    >>> problem = Problem("2 + 3?", "#### 5", "5")
    >>> def item(reason, found):
    ...     return Graded(problem, Generation("2 + 3?", (5,), "", reason), found, 0.0, 0.0, 0.0)
    >>> count_endings([item("stop", 1.0), item("length", 1.0), item("length", 1.0)])
    {('stop', True): 1, ('stop', False): 0, ('length', True): 2, ('length', False): 0}
    """
    counts: dict[tuple[FinishReason, bool], int] = {
        ("stop", True): 0,
        ("stop", False): 0,
        ("length", True): 0,
        ("length", False): 0,
    }
    for item in graded:
        counts[item.generation.finish_reason, item.format_reward > 0] += 1
    return counts


def eos_log_probs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[float]:
    """Log-probability in nats of end-of-text right after each example's response, whether or not it ends with one.

    With reference answers as responses this is what fine-tuning teaches, or does not: 0 means that the model surely
    stops there. The model's mode and generation settings are as before afterwards.

    Raises:
        ConfigError: the tokenizer has no end-of-text token.
        DataError: an example has nothing to stop after.

    >>> from types import SimpleNamespace
    >>> class Model(torch.nn.Module):  # after token 7 it stops with probability 3/4, else with 1/4
    ...     device = torch.device("cpu")
    ...     def forward(self, input_ids, **settings):
    ...         row = [3.0, 1.0] if input_ids[0, -1] == 7 else [1.0, 3.0]
    ...         return SimpleNamespace(logits=torch.tensor([[row]]).log())
    >>> tokenizer = SimpleNamespace(eos_token_id=0)
    >>> log_probs = eos_log_probs(Model(), tokenizer, [Example((5,), (7, 0)), Example((5,), (7,)), Example((7,), (6,))])
    >>> [f"{value:.3f}" for value in log_probs]
    ['-0.288', '-0.288', '-1.386']
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise ConfigError("the tokenizer has no end-of-text token", "set tokenizer.eos_token")
    training = model.training
    model.eval()
    values = []
    try:
        with torch.inference_mode():
            for example in examples:
                response = example.response_ids
                ids = example.prompt_ids + (response[:-1] if response[-1:] == (eos_id,) else response)
                if not ids:
                    raise DataError("an example without tokens", "give a prompt or a response")
                # One at a time and the last position only: [1, 1, V], however large the vocabulary.
                logits = model(torch.tensor([ids], device=model.device), logits_to_keep=1).logits[0, -1]  # [V]
                values.append(logits.float().log_softmax(-1)[eos_id].item())
    finally:
        model.train(training)
    return values
