"""Reads a ground truth: the right answer that a data set gives, as exact numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from numbers import Integral, Rational, Real

from cs336_sft.errors import DataError
from cs336_sft.grading.answer_span import find_span
from cs336_sft.grading.number import read_number

GroundTruth = str | int | float | Fraction | Decimal | Sequence["GroundTruth"]


def read_truth(ground_truth: GroundTruth) -> tuple[Fraction | int, ...]:
    """Return the acceptable values, exactly.

    A string is a number with any formatting (``"$1,080"``, ``"\\\\frac{3}{4}"``, ``"\\\\boxed{18}"``) or GSM8K's whole
    answer text, of which the last ``####`` line counts. A float is its shortest decimal: 0.7 is 7/10. A list holds
    several acceptable truths.
    Raises DataError: there is no number in it; the message quotes it.

    >>> read_truth("16 - 7 = <<16-7=9>>9\\n#### 1,080"), read_truth([0.7, "1/4"])
    ((1080,), (Fraction(7, 10), Fraction(1, 4)))
    """
    if isinstance(ground_truth, str):
        return (_read_text(ground_truth),)
    if isinstance(ground_truth, Integral) and not isinstance(ground_truth, bool):
        return (int(ground_truth),)
    if isinstance(ground_truth, Rational | Decimal | Real) and not isinstance(ground_truth, bool):
        if not math.isfinite(ground_truth):
            raise _no_number(ground_truth, "not finite")
        exact = ground_truth if isinstance(ground_truth, Rational | Decimal) else repr(float(ground_truth))
        value = Fraction(exact)
        return (value.numerator if value.denominator == 1 else value,)
    if isinstance(ground_truth, Sequence) and not isinstance(ground_truth, bytes | bytearray) and ground_truth:
        return tuple(value for truth in ground_truth for value in read_truth(truth))
    raise _no_number(ground_truth, "give a string, number or list of them")


def split_truth(ground_truth: GroundTruth) -> tuple[list[Fraction | int], list[str]]:
    """Return the acceptable numbers, and the texts that are no number."""
    values, expressions = [], []
    for truth in ground_truth if isinstance(ground_truth, list | tuple) else [ground_truth]:
        try:
            values += read_truth(truth)
        except DataError:
            if not isinstance(truth, str):
                raise
            expressions.append(_stated(truth).strip())
    return values, expressions


@lru_cache(maxsize=10_000)  # many responses have one truth
def _read_text(text: str) -> Fraction | int:
    value, reason = read_number(_stated(text))
    if value is None:
        raise _no_number(text, reason)
    return value


def _stated(text: str) -> str:
    """Return the part of a truth that states the answer."""
    if "####" in text:
        found = find_span(text, "gsm8k")
        return text[found.start : found.end] if found else ""
    if "\\boxed" in text:
        found = find_span(text, "question_only")
        return text[found.start : found.end] if found and not found.glued else text
    return text


def _no_number(truth: object, reason: str) -> DataError:
    quoted = repr(truth) if len(repr(truth)) <= 200 else repr(truth)[:200] + "…"
    remedy = "correct it, or compare expressions with math=MathVerifier()"
    return DataError(f"no number in the ground truth {quoted}: {reason}", remedy)
