"""What stored generations would have scored under other rules of stopping, without a model.

Greedy tokens (and those sampled with keyed noise) do not depend on what stops them later, so ending a stored generation
earlier gives exactly what generating again would have given. `evaluation.rescore_at_limit` lowers the limit; here are a
context that is too small, stop strings, and a model that stops right after its first answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cs336_sft.errors import ConfigError, ContextLengthError
from cs336_sft.evaluation.evaluate import RewardFn, grade, rescore_at_limit
from cs336_sft.evaluation.truncation import find_first_answer, tokens_until
from cs336_sft.generation.response_text import decode_response
from cs336_sft.records import Graded
from cs336_sft.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def rescore_in_context(
    graded: Sequence[Graded],
    max_model_len: int,
    tokenizer: PreTrainedTokenizerBase,
    reward_fn: RewardFn,
) -> tuple[Graded, ...]:
    """The verdicts under an engine that silently clips prompt and output together to ``max_model_len`` tokens.

    That is vLLM's behaviour where ``max_tokens`` does not fit: the output ends after ``max_model_len - prompt`` tokens
    with the finish reason ``"length"``, as if ``max_tokens`` had been reached. Long prompts are cut first.

    Raises:
        ContextLengthError: a prompt that leaves no room for a token. vLLM refuses the whole batch then.
    """
    rescored: list[Graded] = []
    prompts = encode([item.generation.prompt for item in graded], tokenizer)
    for item, prompt in zip(graded, prompts, strict=True):
        room = max_model_len - len(prompt)
        if room < 1:
            raise ContextLengthError(
                f"a prompt of {len(prompt)} tokens leaves no room in a context of {max_model_len}",
                f"raise max_model_len to at least {len(prompt) + 1}",
            )
        if len(item.generation.token_ids) > room:
            (item,) = rescore_at_limit([item], room, tokenizer, reward_fn)
        rescored.append(item)
    return tuple(rescored)


def rescore_with_stop(
    graded: Sequence[Graded], stop: Sequence[str], tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """The verdicts if generation had ended at the first of these strings, which stays in the text.

    For generations that were made without stop strings; equal to ``SamplingConfig(stop=...)``.

    Raises:
        ConfigError: no stop string, or an empty one.
    """
    if isinstance(stop, str) or not stop or not all(stop):
        raise ConfigError(f"stop is {stop!r}", "give a sequence of non-empty strings")
    rescored = []
    for item in graded:
        generation = item.generation
        text = decode_response(tokenizer, generation.token_ids)
        ends = {s: text.find(s) + len(s) for s in stop if s in text}
        if ends:
            # Several strings may be completed by one token: then the first in the order of `stop`, as in the sampler.
            counts = {s: tokens_until(tokenizer, generation.token_ids, text[:end]) for s, end in ends.items()}
            found = min(counts, key=lambda s: counts[s])
            generation = replace(
                generation,
                token_ids=generation.token_ids[: counts[found]],
                text=text[: ends[found]],
                finish_reason="stop",
                stop_reason=found,
                logprobs=generation.logprobs and generation.logprobs[: counts[found]],
                entropies=generation.entropies and generation.entropies[: counts[found]],
            )
            item = grade(item.problem, generation, reward_fn)
        rescored.append(item)
    return tuple(rescored)


def rescore_at_first_answer(
    graded: Sequence[Graded], tokenizer: PreTrainedTokenizerBase, reward_fn: RewardFn
) -> tuple[Graded, ...]:
    """The verdicts if every generation had ended by itself right after its first answer (`stopping.find_first_answer`).

    No engine can do that; it is the model's answer without what it wrote afterwards. Generations without an answer
    stay as they are.
    """
    rescored = []
    for item in graded:
        span = find_first_answer(tokenizer, item.generation.token_ids)
        if span is not None and span.end < len(item.generation.token_ids):
            kept = item.generation.token_ids[: span.end]
            generation = replace(
                item.generation,
                token_ids=kept,
                text=decode_response(tokenizer, kept),
                finish_reason="stop",
                stop_reason=None,
                logprobs=item.generation.logprobs and item.generation.logprobs[: span.end],
                entropies=item.generation.entropies and item.generation.entropies[: span.end],
            )
            item = grade(item.problem, generation, reward_fn)
        rescored.append(item)
    return tuple(rescored)
