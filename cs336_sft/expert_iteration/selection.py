"""Which samples a round of expert iteration trains on, and the controls that it is measured against.

Graded rollouts -> ``judged`` (whose verdict counts) -> a selection -> training examples made of the sampled ids.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cs336_sft.errors import ConfigError
from cs336_sft.generation.response_text import decode_response
from cs336_sft.grading import cut_position, find_span
from cs336_sft.records import Example, Graded
from cs336_sft.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What closes a style's answer, after the span that ``find_span`` gives.
_CLOSING = {"gsm8k": "", "r1_zero": "</answer>", "question_only": "}"}


def select_samples(
    graded: Sequence[Graded], per_question_cap: int | None = None, *, drop_duplicates: bool = True
) -> list[Graded]:
    """The correct samples (``reward`` above 0), in the order given.

    Of the samples of one question whose text is the same, blanks at both ends aside, the first stays; the same text
    under another question is another sample. Of what is left of a question at most ``per_question_cap``, the first
    ones. Nothing correct gives an empty list: that round trains on nothing.

    >>> from cs336_sft.records import Generation, Problem
    >>> problem = Problem("2 + 3?", "#### 5", "5", id="a")
    >>> texts = ["#### 5", "#### 6", " #### 5", "3+2 = 5\\n#### 5"]
    >>> graded = [
    ...     Graded(problem, Generation("2 + 3?", (i,), text, "stop", sample=i), 1.0, float("5" in text), float("5" in text), 1.0)
    ...     for i, text in enumerate(texts)
    ... ]
    >>> [item.generation.sample for item in select_samples(graded)]
    [0, 3]
    >>> [item.generation.sample for item in select_samples(graded, per_question_cap=1)]
    [0]
    """  # noqa: E501
    correct = [item for item in graded if item.reward > 0]
    return _capped(_distinct(correct) if drop_duplicates else correct, per_question_cap)


def random_samples(
    graded: Sequence[Graded],
    n: int,
    seed: int,
    *,
    drop_duplicates: bool = True,
) -> list[Graded]:
    """The control without a filter: ``n`` samples drawn from all of them, right or wrong, in the order given.

    Fewer than ``n`` where there are not so many.

    >>> random_samples([], 3, seed=0)
    []
    """
    pool = _distinct(graded) if drop_duplicates else list(graded)
    chosen = random.Random(seed).sample(range(len(pool)), min(n, len(pool)))
    return [pool[index] for index in sorted(chosen)]


def question_key(item: Graded) -> str:
    """What the samples of one question have in common: the problem's id, or its text where it has no id."""
    return item.problem.id or item.problem.question


def lenient_verdicts(graded: Sequence[Graded]) -> list[Graded]:
    """The same samples, each with its lenient verdict as its reward: the judge for a model that lacks the format.

    >>> lenient_verdicts([])
    []
    """
    return [replace(item, reward=item.lenient) for item in graded]


def flip_verdicts(graded: Sequence[Graded], error: float, seed: int) -> list[Graded]:
    """The control with a bad grader: each verdict is turned around with probability ``error``.

    Which ones depends on seed, question and sample alone: it is the same in a run that was resumed.

    >>> from cs336_sft.records import Generation, Problem
    >>> item = Graded(Problem("2 + 3?", "#### 5", "5"), Generation("", (1,), "#### 5", "stop"), 1.0, 1.0, 1.0, 1.0)
    >>> [flip_verdicts([item], error, seed=0)[0].reward for error in (0.0, 1.0)]
    [1.0, 0.0]
    """

    def flipped(item: Graded) -> bool:
        name = f"{seed}/{question_key(item)}/{item.generation.sample}"
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64 < error

    return [replace(item, reward=float(item.reward <= 0)) if flipped(item) else item for item in graded]


def training_example(
    item: Graded,
    tokenizer: PreTrainedTokenizerBase,
    *,
    append_eos: bool = True,
    add_format: bool = False,
    trim: str | None = None,
) -> Example:
    """A sample as a training sequence, made of the ids that were sampled.

    The text is never tokenized again: a model often writes a text in other tokens than the tokenizer would, and those
    would be trained on that it did not choose.

    Args:
        append_eos: end-of-text after a sample that ended at a stop string or was trimmed. One that the limit cut off
            has no end and gets none.
        add_format: put the line ``#### N`` with the reference's number after the sample (the only new ids).
        trim: a grading style: a sample that the limit cut off ends where its answer ends.

    >>> from cs336_sft.records import Generation, Problem
    >>> class Letters:
    ...     eos_token_id = 0
    ...     def __call__(self, texts, **kwargs):
    ...         texts = [texts] if isinstance(texts, str) else texts
    ...         return {"input_ids": [[ord(c) for c in text] for text in texts]}
    >>> ended = Generation("Q", (53, 0), "5", "stop")
    >>> item = Graded(Problem("Q", "#### 5", "5"), ended, 0.0, 0.0, 0.0, 1.0)
    >>> training_example(item, Letters()).response_ids
    (53, 0)
    >>> training_example(item, Letters(), add_format=True).response_ids  # 5, line break, #### 5, end-of-text
    (53, 10, 35, 35, 35, 35, 32, 53, 0)
    """
    generation, eos = item.generation, tokenizer.eos_token_id
    ids, ended = generation.token_ids, generation.finish_reason == "stop"
    if not ended and trim is not None:
        ids, ended = ids[: answer_length(item, tokenizer, trim)], True
    if add_format:
        ids = ids[:-1] if ids and ids[-1] == eos else ids
        ids = (*ids, *encode([f"\n#### {item.problem.final}"], tokenizer)[0])
    if ended and append_eos and (not ids or ids[-1] != eos):
        ids = (*ids, eos)
    return Example(tuple(encode([generation.prompt], tokenizer)[0]), tuple(ids))


def answer_length(item: Graded, tokenizer: PreTrainedTokenizerBase, style: str) -> int:
    """How many of a sample's ids reach to the end of its answer (``####`` line, tag or box).

    Raises:
        ConfigError: the sample has no answer in this style.
    """
    text = item.generation.text
    span = find_span(text[: cut_position(text)], style)
    if span is None:
        raise ConfigError(f"a sample of {question_key(item)!r} has no {style} answer", "trim correct samples only")
    closing = _CLOSING[style]
    end = text.index(closing, span.end) + len(closing) if closing else len(text[: span.end].rstrip())
    low, high = 1, len(item.generation.token_ids)
    while low < high:  # the decoded length grows with the number of ids
        middle = (low + high) // 2
        if len(decode_response(tokenizer, item.generation.token_ids[:middle])) >= end:
            high = middle
        else:
            low = middle + 1
    return low


def _distinct(graded: Sequence[Graded]) -> list[Graded]:
    first: dict[tuple[str, str], Graded] = {}
    for item in graded:
        first.setdefault((question_key(item), item.generation.text.strip()), item)
    return list(first.values())


def _capped(graded: Sequence[Graded], cap: int | None) -> list[Graded]:
    if cap is None:
        return list(graded)
    taken: Counter[str] = Counter()
    kept = []
    for item in graded:
        if taken[question_key(item)] < cap:
            taken[question_key(item)] += 1
            kept.append(item)
    return kept
