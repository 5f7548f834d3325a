"""Reads a ground truth: what a data set gives as the right answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Rational, Real

from cs336_sft.grading.answer_span import find_span, plain_hash_value
from cs336_sft.grading.number import read_number

GroundTruth = str | int | float | Fraction | Decimal | Sequence["GroundTruth"]


def read_truth(ground_truth: GroundTruth) -> tuple[Fraction | int, ...]:
    """The acceptable values, exactly.

    A string may be a number in any dress (``"$1,080"``, ``"\\\\frac{3}{4}"``, ``"\\\\boxed{18}"``), or GSM8K's whole
    answer text, of which the last ``####`` line counts. A float stands for its shortest decimal: 0.7 is 7/10.
    A list holds several acceptable truths.

    Raises:
        ValueError: there is no number in it; the message quotes it.

    >>> read_truth("16 - 7 = <<16-7=9>>9\\n#### 1,080")
    (1080,)
    >>> read_truth([0.7, "1/4"])
    (Fraction(7, 10), Fraction(1, 4))
    >>> read_truth("eighteen")
    Traceback (most recent call last):
    ValueError: no number in the ground truth 'eighteen': no number
    """
    if isinstance(ground_truth, str):
        return (_from_text(ground_truth),)
    if isinstance(ground_truth, bool):
        raise ValueError(f"no number in the ground truth {ground_truth!r}: a truth value")
    if isinstance(ground_truth, Integral):
        return (int(ground_truth),)
    if isinstance(ground_truth, (Rational, Decimal)):
        if isinstance(ground_truth, Decimal) and not ground_truth.is_finite():
            raise ValueError(f"no number in the ground truth {ground_truth!r}")
        return (_integral(Fraction(ground_truth)),)
    if isinstance(ground_truth, Real):
        if not math.isfinite(ground_truth):
            raise ValueError(f"no number in the ground truth {ground_truth!r}")
        return (_integral(Fraction(repr(float(ground_truth)))),)
    if isinstance(ground_truth, Sequence) and not isinstance(ground_truth, (bytes, bytearray)) and ground_truth:
        return tuple(value for truth in ground_truth for value in read_truth(truth))
    raise ValueError(f"no number in the ground truth {_quoted(ground_truth)}: give a string, number or list of them")


def _from_text(text: str) -> Fraction | int:
    plain = plain_hash_value(text)
    if plain is not None:
        return plain
    span = text
    if "####" in text:
        found = find_span(text, "gsm8k")
        span = text[found.start : found.end] if found else ""
    elif "\\boxed" in text:
        found = find_span(text, "question_only")
        span = text[found.start : found.end] if found and not found.glued else text
    reading = read_number(span)
    if reading.value is None:
        raise ValueError(f"no number in the ground truth {_quoted(text)}: {reading.reason}")
    return reading.value


def _integral(value: Fraction) -> Fraction | int:
    return value.numerator if value.denominator == 1 else value


def _quoted(truth: object) -> str:
    text = repr(truth)
    return text if len(text) <= 200 else text[:200] + "…"
