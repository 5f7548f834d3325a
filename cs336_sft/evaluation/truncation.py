"""Where a model's first answer is, how its outputs end, and what they would score under other rules of stopping.

The `rescore_...` functions need no model: tokens do not depend on what stops them later, so ending a stored generation
earlier gives exactly what generating again would have given.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, product
from typing import TYPE_CHECKING, NamedTuple

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.evaluation.evaluate import grade_generation
from cs336_sft.evaluation.response_scores import score_responses
from cs336_sft.generation.response_text import decode_response
from cs336_sft.grading import RewardFn, cut_position
from cs336_sft.records import Example, FinishReason, Graded
from cs336_sft.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

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


def find_recorded_answer(text: str, token_ends: Sequence[int]) -> AnswerSpan | None:
    """Find the first answer in a recorded generation.

    `token_ends` has the characters of the text that each token adds, as sweep records store them.
    """
    found = GSM8K_ANSWER.search(text, 0, cut_position(text))
    if found is None:
        return None
    reached = list(accumulate(token_ends))  # characters that the first 1, 2, ... tokens show
    return AnswerSpan(bisect_left(reached, found.start() + 1), bisect_left(reached, found.end()) + 1)


def tokens_until(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], beginning: str) -> int:
    """Count the ids whose text is the first one to hold `beginning`, by bisection."""
    # Not by lengths: half a UTF-8 character decodes to several replacement characters, and more ids to a shorter text.
    if not decode_response(tokenizer, ids).startswith(beginning):
        raise DataError("the text of these ids has another beginning", "give a beginning of their decoded text")
    return bisect_left(range(len(ids)), True, key=lambda n: decode_response(tokenizer, ids[:n]).startswith(beginning))


def count_endings(graded: Sequence[Graded]) -> dict[tuple[FinishReason, bool], int]:
    """Count generations by finish reason and by whether the format's answer is there."""
    cells = [(item.generation.finish_reason, item.format_reward > 0) for item in graded]
    return {cell: cells.count(cell) for cell in product(("stop", "length"), (True, False))}


def eos_log_probs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[float]:
    """Compute the log-probability in nats of end-of-text after each response.

    With reference answers as responses this is what fine-tuning teaches: at 0 the model surely stops there.
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise ConfigError("the tokenizer has no end-of-text token", "set tokenizer.eos_token")
    texts = [
        (e.prompt_ids, e.response_ids[:-1] if e.response_ids[-1:] == (eos_id,) else e.response_ids) for e in examples
    ]
    if not all(prompt or response for prompt, response in texts):
        raise DataError("an example without tokens", "give a prompt or a response")
    ended = [Example(prompt, (*response, eos_id)) for prompt, response in texts]
    return [scores.logprobs[-1] for scores in score_responses(model, ended)]


def rescore_at_limit(
    graded: Sequence[Graded], limit: int, tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """Grade generations as they would be under a lower `max_new_tokens`.

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
        rescored.append(_shorten(item, limit, "length", tokenizer, reward_fn))
    return tuple(rescored)


def rescore_in_context(
    graded: Sequence[Graded], max_model_len: int, tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """Grade generations as if the context had held `max_model_len` tokens.

    Raises ContextLengthError: a prompt that leaves no room for a token.
    """
    rescored = []
    prompts = encode([item.generation.prompt for item in graded], tokenizer, add_bos=True)
    for item, prompt in zip(graded, prompts, strict=True):
        room = max_model_len - len(prompt)
        if room < 1:
            problem = f"a prompt of {len(prompt)} tokens leaves no room in a context of {max_model_len}"
            raise ContextLengthError(problem, f"raise max_model_len to at least {len(prompt) + 1}")
        rescored.append(_shorten(item, room, "length", tokenizer, reward_fn))
    return tuple(rescored)


def rescore_with_stop(
    graded: Sequence[Graded], stop: Sequence[str], tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """Grade generations as if each had ended at the first stop string in it.

    The string stays in the text. Equal to `SamplingConfig(stop=...)` where they were generated without stop strings.
    """
    if isinstance(stop, str) or not stop or not all(stop):
        raise ConfigError(f"stop is {stop!r}", "give a sequence of non-empty strings")
    rescored = []
    for item in graded:
        ids = item.generation.token_ids
        text = decode_response(tokenizer, ids)
        cuts = {s: text[: text.find(s) + len(s)] for s in stop if s in text}
        if cuts:
            # Several strings may be completed by one token: then the first in the order of `stop`, as in the sampler.
            counts = {s: tokens_until(tokenizer, ids, cut) for s, cut in cuts.items()}
            found = min(counts, key=counts.__getitem__)
            item = _shorten(item, counts[found], "stop", tokenizer, reward_fn, found, cuts[found])
        rescored.append(item)
    return tuple(rescored)


def rescore_at_first_answer(
    graded: Sequence[Graded], tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """Grade generations as if each had ended by itself after its first answer."""
    spans = [find_first_answer(tokenizer, item.generation.token_ids) for item in graded]
    pairs = zip(graded, spans, strict=True)
    return tuple(_shorten(item, span.end, "stop", tokenizer, reward_fn) if span else item for item, span in pairs)


def _shorten(
    item: Graded,
    length: int,
    finish_reason: FinishReason,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFn,
    stop: str | None = None,
    text: str | None = None,
) -> Graded:
    """Grade the first `length` tokens of a generation that is longer."""
    generation = item.generation
    kept = generation.token_ids[:length]
    if len(kept) == len(generation.token_ids) and stop is None:
        return item
    generation = replace(
        generation,
        token_ids=kept,
        text=decode_response(tokenizer, kept) if text is None else text,
        finish_reason=finish_reason,
        stop_reason=stop,
        logprobs=generation.logprobs and generation.logprobs[:length],
        entropies=generation.entropies and generation.entropies[:length],
    )
    return grade_generation(item.problem, generation, reward_fn)
