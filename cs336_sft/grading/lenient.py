"""Lenient grading: is the right answer there at all, whatever its form?

Read from the first of these that is there, in the response before another problem or turn starts (the same cut):

1. a style's structure (tags, ``####``, box; in this order) whose span holds a digit (or ``½``): what it holds is the
   answer, even if it can't be read;
2. the last "answer is …" / "answer: …" statement, to the end of its sentence;
3. the last number of the last sentence (or line) with a number in it, after its last ``=``; one after
   "in", "for", "per", "every", "after", "within" or "at" ("45 miles in 9 hours") only if there is no other.

Only 3 accepts a number among others. It says whether the model could solve the problem, never what to train on.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cs336_sft.grading.answer_span import find_span
from cs336_sft.grading.ground_truth import GroundTruth, read_truth
from cs336_sft.grading.number import read_number
from cs336_sft.grading.response_end import cut_position

_STATEMENT = re.compile(r"\banswer(?:\s+is|\s+would be|\s*[:=])[:\s]{0,4}([^\n]{0,300})", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z*\\#(\"'])|[\n\r]+")
_NUMBER = re.compile(
    r"(?<![\w.])[-−]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s*/\s*\d+)?(?:\s+(?:thousand|million|billion))?"
)
# "She travels 45 miles in 9 hours": the last number says how long, not how much.
_CIRCUMSTANCE = re.compile(r"\b(?:in|for|per|every|after|within|at)\s+(?:the\s+)?\$?\Z", re.IGNORECASE)
_TAIL = 4_000


def read_leniently(response: str) -> Fraction | int | None:
    """The most plausible final answer of ``response``, or None.

    >>> read_leniently("She sells 9 eggs at $2, so she makes 9 * 2 = $18 every day.")
    18
    >>> read_leniently("The answer is 18. Question: and now?")
    18
    """
    text = response[: cut_position(response)]
    for style in ("r1_zero", "gsm8k", "question_only"):
        span = find_span(text, style)
        if span is not None and any(c.isnumeric() for c in text[span.start : span.end]):
            return None if span.glued else read_number(text[span.start : span.end]).value
    text = text[-_TAIL:]
    statements = _STATEMENT.findall(text)
    if statements:
        sentence = _SENTENCE_END.split(statements[-1])[0]
        if any(c.isdigit() for c in sentence):
            return read_number(sentence).value
    for sentence in reversed(_SENTENCE_END.split(text)):
        if any(c.isdigit() for c in sentence):
            return _last_number(_around_last_digit(sentence))
    return None


def _around_last_digit(sentence: str) -> str:
    """At most 1,000 characters of a sentence, which may ramble on for thousands after its last digit."""
    last = max(index for index, c in enumerate(sentence) if c.isdigit())
    end = last + 200
    return sentence[max(0, end - 1_000) : end]


def _last_number(sentence: str) -> Fraction | int | None:
    whole = read_number(sentence)
    if whole.value is not None:
        return whole.value
    side = next(side for side in reversed(sentence.split("=")) if any(c.isdigit() for c in side))
    found = [numeral for numeral in _NUMBER.finditer(side) if any(c.isdigit() for c in numeral.group())]
    stated = [numeral for numeral in found if not _CIRCUMSTANCE.search(side, 0, numeral.start())]
    for numeral in reversed(stated or found):
        return read_number(numeral.group()).value
    return None


def lenient_reward_fn(response: str, ground_truth: GroundTruth) -> float:
    """1.0 if any readable final answer of ``response`` equals ``ground_truth``, else 0.0.

    Raises:
        ValueError: no number in the ground truth.

    >>> lenient_reward_fn("So 18 apples.", "18"), lenient_reward_fn("#### 18 or 19", "18")
    (1.0, 0.0)
    """
    truths = read_truth(ground_truth)
    value = read_leniently(response)
    return 1.0 if value is not None and value in truths else 0.0
