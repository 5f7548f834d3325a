"""Reads the one number of a span, exactly, or gives the reason why there is none.

After ``=`` only the last side counts. docs/grading-rules.md has all the rules: none accepts an ambiguous answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from cs336_sft.grading.context import check_context, take_sign
from cs336_sft.grading.normalize import normalize
from cs336_sft.grading.quantity import RUN, Refusal, decimal_value, find_quantity

SPAN_LIMIT = 1_000


class NumberReading(NamedTuple):
    value: Fraction | int | None
    reason: str  # why there is a value or none


_PLAIN = re.compile(r"[ \t]*\$?(-?(?:[0-9]{1,15}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,4}))[ \t]*")

_EQUALS = re.compile(r"\b(?:equals|is equal to|are equal to|equal to)\b", re.IGNORECASE)
_NEXT_EQUATION = re.compile(r"[,;&]\s|\band\b", re.IGNORECASE)
_REASON = re.compile(r"\d[^\d]*\b(?:since|because|as|where)\b", re.IGNORECASE)
_CHOICE = re.compile(r"\b(?:or|either|neither|nor)\b", re.IGNORECASE)
_DENIED_EQUATION = re.compile(
    r"(?:\b(?:not|never|cannot)|n't)(?:\s+(?:be|exactly|the|is|to|really|that))*[^A-Za-z]*\Z", re.IGNORECASE
)
# A number stated before an equation: "20 because 2 * 9 = 18", "20 (2 * 9 = 18)", "20. 2 * 9 = 18", "20, 2 * 9 = 18".
_COMMITTED = re.compile(
    r"(?:(?:^[^A-Za-z\d.]*(?:so|thus|hence|therefore)?[,:\s]*|\banswer(?:\s+is|\s*:)?\s*|\b(?:it|that)(?:\s+is|'s)\s+)"
    rf"[$(\s]*(?P<a>{RUN})\s*%?"
    r"(?:[,;]\s|(?:\s*[A-Za-z$]+){0,4}?\s*(?:\((?=[^)]*\Z)|\bbecause\b|\bsince\b|\bas\b|[;—]\s|\.\s)))"
    rf"|\b(?:is|are|makes|earns|has|have)\s+[$\s]*(?P<b>{RUN})\s*%?"
    r"(?:\s*[A-Za-z$]+){0,4}?\s*(?:\((?=[^)]*\Z)|\bbecause\b|\bsince\b)",
    re.IGNORECASE,
)


def read_number(span: str) -> NumberReading:
    """Read the one number in ``span``, in time linear in it, without raising.

    >>> read_number("$1,080.50 per week")
    NumberReading(value=Fraction(2161, 2), reason='one number')
    >>> read_number("18 or more").reason
    'a choice, denial, condition or operation: "or"'
    """
    plain = _PLAIN.fullmatch(span)  # the shape of almost every answer
    return NumberReading(int(plain[1].replace(",", "")), "one number") if plain else read_number_slowly(span)


def read_number_slowly(span: str) -> NumberReading:
    """Do the same without the shortcut for plain integers (a test compares the two)."""
    if len(span) > SPAN_LIMIT:
        return NumberReading(None, f"more than {SPAN_LIMIT} characters where the answer should be")
    try:
        value = _read(span)
    except Refusal as refusal:
        return NumberReading(None, str(refusal))
    return NumberReading(value.numerator if value.denominator == 1 else value, "one number")


def _read(span: str) -> Fraction:
    text = normalize(span)
    if "<" in text or ">" in text or "!=" in text:
        raise Refusal("an inequality")
    text = _EQUALS.sub("=", text)
    sides = text.split("=")
    value = _read_side(sides[-1])
    if len(sides) > 1:
        _check_earlier_sides(sides[:-1], value)
    return value


def _check_earlier_sides(sides: list[str], value: Fraction) -> None:
    """Refuse an equation whose earlier sides deny the last one or name another answer."""
    for side in sides:
        if _CHOICE.search(side):
            raise Refusal("a choice")
        if _DENIED_EQUATION.search(side):
            raise Refusal("a denial")
    for side in sides[1:]:
        # "x = 18, y = 20" is two answers; "5 + 3 = 8, 8 * 2 = 16" is one calculation.
        parts = _NEXT_EQUATION.split(side)
        if len(parts) > 1 and not any(c.isdigit() for c in parts[-1]) or _REASON.search(side):
            raise Refusal("more than one equation")
    committed = _COMMITTED.search(sides[0])
    if committed and decimal_value(committed["a"] or committed["b"]) != value:
        raise Refusal("another number stands before the equation")


def _read_side(side: str) -> Fraction:
    found = find_quantity(side)
    if found is None:
        raise Refusal("no number")
    value, left, right = found
    sign, left = take_sign(left)
    if sign < 0 and "|" in left and "|" in right:
        raise Refusal("bars that may stand for an absolute value")
    check_context(left, right, sign * value)
    return sign * value
