"""Lenient grading: decides whether a response has the right answer, in any form.

The answer is the first of these, in the part of the response that is graded:

1. a style's structure (tags, ``####``, box; in this order) that holds a digit (or ``½``), even if it can't be read;
2. the last "answer is …" / "answer: …" statement, to the end of its sentence;
3. the last number of the last sentence (or line) with a number in it, after its last ``=``; one after "in", "for",
   "per", "every", "after", "within" or "at" ("45 miles in 9 hours") only if there is no other.
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
    """Return the most plausible final answer of ``response``, or None.

    >>> read_leniently("She sells 9 eggs at $2, so she makes 9 * 2 = $18 every day.")
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
            last = max(index for index, c in enumerate(sentence) if c.isdigit())
            return _last_number(sentence[max(0, last - 800) : last + 200])
    return None


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
    """Return 1.0 if the most plausible answer equals ``ground_truth``, else 0.0.

    Raises DataError: no number in the ground truth.

    >>> lenient_reward_fn("So 18 apples.", "18"), lenient_reward_fn("#### 18 or 19", "18")
    (1.0, 0.0)
    """
    return float(read_leniently(response) in read_truth(ground_truth))  # None is in no tuple of numbers
