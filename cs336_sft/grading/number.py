"""Reads the one number that a span holds, exactly, or says why it holds none.

Decisions where a careful teacher has to choose (the tests hold each of them; none accepts what is ambiguous):

- After ``=`` (also ``≈``, ``equals``) only the last side counts: ``18 = x`` holds no number. Two equations
  (``x = 18, y = 20``) are two candidates, a calculation in two steps (``5 + 3 = 8, 8 * 2 = 16``) is one, and a number
  stated first and followed by a sum for another (``20 (9 * 2 = 18)``) is none.
- A sum, product, power or root is not evaluated, but ``3/4``, ``36/2`` and ``2 × 10^3`` are notations of one number.
- ``3 1/4`` and ``3 and 1/4`` are 3.25; ``18 and a half`` is 18.5; ``3-1/4`` and ``3 5/4`` are nothing.
- ``5 cents``, ``40%``, ``3 dozen`` and ``5 quarters`` keep their unit's number: 5, 40, 3, 5.
- ``3.5 million``, ``$5k``, ``$3.5m`` are multiplied out. ``5k`` without a currency is nothing.
- ``about 18``, ``~18`` and ``probably 18`` name one number and are read; ``almost``, ``over``, ``at least`` don't.
- ``- 5`` is -5, ``Answer - 5`` is 5, ``(5)`` is 5, ``negative 5`` is -5, ``profit - 5`` and ``Answer:-5`` are nothing.
- The same number twice (``18 dollars (18)``) is two numbers; a word that repeats it (``18 (eighteen)``) is none. A word
  that counts something else is allowed (``36 cups for the two boys``), one that may belong to the answer is not
  (``4 feet five inches``, ``18 of the twenty``, ``18 per two days``).
- A denial anywhere in the last side refuses it, unless it is about the things counted (``20 people did not go``).
- ``5!`` alone is a factorial, ``The answer is 5!`` an exclamation; ``18?`` is a question, ``18...`` is cut off.
- European ``1.080,00`` and ``1,5``, and groups parted by a plain space (``1 080``), are ambiguous, so nothing; a thin
  space (U+2009, U+202F, LaTeX ``\\,``) and Indian groups (``1,00,000``) are separators.
- Ordinals (``5th``), unknown letters at a number (``5x``, ``v18``, ``0x12``) and single letters beside it: nothing.
- A number of more than 300 digits or with an exponent beyond 300, and a span of more than 1,000 characters: nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from cs336_sft.grading.context import check_beside, take_sign
from cs336_sft.grading.normalize import undress
from cs336_sft.grading.quantity import RUN, Refusal, decimal_value, find_quantity

SPAN_LIMIT = 1_000


@dataclass(frozen=True)
class NumberReading:
    """What a span says: its value, or None and why.

    >>> read_number("$1,080.50 per week")
    NumberReading(value=Fraction(2161, 2), reason='one number')
    >>> read_number("18 or more").reason
    'a choice, denial, condition or operation: "or"'
    """

    value: Fraction | int | None
    reason: str


# The shape of almost every answer, for the shortcuts here, in ``rewards`` and in ``truth``.
PLAIN = r"[ \t]*\$?(-?(?:[0-9]{1,15}|[1-9][0-9]{0,2}(?:,[0-9]{3}){1,4}))[ \t]*"
_PLAIN = re.compile(PLAIN)

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
    """The one number in ``span``; the module's docstring lists what counts as one.

    Linear in the span, and never raises for any string.

    >>> read_number("4 feet 5 inches").value is None
    True
    >>> read_number("5 + 3 = 8 apples").value
    8
    """
    plain = plain_value(span)
    return read_number_slowly(span) if plain is None else NumberReading(plain, "one number")


def plain_value(span: str) -> int | None:
    """The value of a span that is just an integer, as nearly all are; None for any other, readable or not.

    >>> plain_value(" 1,080 "), plain_value("18 apples")
    (1080, None)
    """
    plain = _PLAIN.fullmatch(span)
    return int(plain[1].replace(",", "")) if plain else None


def read_number_slowly(span: str) -> NumberReading:
    """``read_number`` without its shortcut for plain integers (a test proves them equal)."""
    if len(span) > SPAN_LIMIT:
        return NumberReading(None, f"more than {SPAN_LIMIT} characters where the answer should stand")
    try:
        value = _read(span)
    except Refusal as refusal:
        return NumberReading(None, str(refusal))
    return NumberReading(value.numerator if value.denominator == 1 else value, "one number")


def _read(span: str) -> Fraction:
    text = undress(span)
    if "<" in text or ">" in text or "!=" in text:
        raise Refusal("an inequality")
    text = _EQUALS.sub("=", text)
    sides = text.split("=")
    value = _read_side(sides[-1])
    if len(sides) > 1:
        _check_earlier_sides(sides[:-1], value)
    return value


def _check_earlier_sides(sides: list[str], value: Fraction) -> None:
    """What stands before the last ``=`` must not deny the last side or name another answer."""
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
    check_beside(left, right, sign * value)
    return sign * value
