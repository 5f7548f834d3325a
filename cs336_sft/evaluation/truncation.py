"""Where a model's first answer is, and what its outputs would score at a lower limit."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.evaluate import grade_generation
from cs336_sft.generation.response_text import decode_response
from cs336_sft.grading import RewardFn, cut_position
from cs336_sft.records import Graded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The first number on a line after ####. "#### 63+63 = 126" has 63: what the model would have said, had it stopped.
GSM8K_ANSWER = re.compile(r"####[^\n\d]*\d+(?:,\d{3})*(?:\.\d+)?")


class AnswerSpan(NamedTuple):
    """Position of an answer in a generation: tokens generated when it begins and when it is complete."""

    start: int
    end: int


def find_first_answer(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> AnswerSpan | None:
    """Find the first answer in generated ids before another problem, or None."""
    text = decode_response(tokenizer, token_ids)
    found = GSM8K_ANSWER.search(text, 0, cut_position(text))
    if found is None:
        return None
    # The token that holds the answer's first character belongs to it.
    start = tokens_until(tokenizer, token_ids, text[: found.start() + 1]) - 1
    return AnswerSpan(start, tokens_until(tokenizer, token_ids, text[: found.end()]))


def tokens_until(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], beginning: str) -> int:
    """Count the ids whose text is the first one to hold `beginning`, by bisection."""
    # Not by lengths: half a UTF-8 character decodes to several replacement characters, and more ids to a shorter text.
    if not decode_response(tokenizer, ids).startswith(beginning):
        raise DataError("the text of these ids has another beginning", "give a beginning of their decoded text")
    return bisect_left(range(len(ids)), True, key=lambda n: decode_response(tokenizer, ids[:n]).startswith(beginning))


def rescore_at_limit(
    graded: Sequence[Graded], limit: int, tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """Grade generations as they would be under a lower `max_new_tokens`.

    Greedy tokens do not depend on what stops them, so this is what generating again would have given.
    Raises ConfigError: the limit is below 1, or above the one that cut a generation off.
    """
    if limit < 1:
        raise ConfigError(f"limit is {limit}", "give at least 1 token")
    rescored = []
    for item in graded:
        length = len(item.generation.token_ids)
        if length < limit and item.generation.finish_reason == "length":
            problem = f"a generation of {item.problem.id or 'a problem'} was cut off after {length} tokens"
            remedy = f"give a limit of at most {length}, or generate again with max_new_tokens={limit}"
            raise ConfigError(f"{problem}; nothing is known of the tokens up to {limit}", remedy)
        if length > limit:
            ids = item.generation.token_ids[:limit]
            shorter = replace(
                item.generation,
                token_ids=ids,
                text=decode_response(tokenizer, ids),
                finish_reason="length",
                stop_reason=None,
                logprobs=item.generation.logprobs and item.generation.logprobs[:limit],
                entropies=item.generation.entropies and item.generation.entropies[:limit],
            )
            item = grade_generation(item.problem, shorter, reward_fn)
        rescored.append(item)
    return tuple(rescored)
