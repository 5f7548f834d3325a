"""Decides the exact value of a numeral: ``1,080.50``, ``3/4``, ``3 1/4``, ``2 × 10^3``, ``3.5 million``, ``$5k``.

A numeral that can't be a ``Fraction`` (``1.080,00``) is refused, never rounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

DIGIT_LIMIT = 300
MULTIPLIERS = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MULTIPLIERS |= {"lakh": 10**5, "crore": 10**7}


class Refusal(Exception):
    """The reason why a span has no number. It never leaves ``read_number``."""


RUN = r"(?:\d+|\.\d+)(?:[.,\u2009]\d+)*(?:[eE][+-]?\d+)?"
_START = re.compile(r"\d|(?<![A-Za-z.])\.\d")
_QUANTITY = re.compile(
    rf"(?P<a>{RUN})(?:\s*/\s*(?P<d>{RUN})|\s+(?:and\s+)?(?P<n>\d+)\s*/\s*(?P<m>\d+)"
    r"|\s*[×x*]\s*10\s*\^\s*(?P<e>[+-]?\s*\d+))?"
)
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?:\u2009\d{3})+)(\.\d+)?|[1-9]\d?(?:,\d{2})+,\d{3}(\.\d+)?")
_DECIMAL = re.compile(r"(\d*)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")
_MULTIPLIER = re.compile(rf"\s*-?({'|'.join(MULTIPLIERS)})s?(?![A-Za-z])", re.IGNORECASE)
_MONEY_SUFFIX = re.compile(r"(k|mm|mn|m|bn|b)(?![A-Za-z\d])", re.IGNORECASE)
_SUFFIX_VALUE = {"k": 10**3, "m": 10**6, "mm": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}
_AND_A_HALF = re.compile(r"\s+and\s+(?:a|one)[\s-]+half(?![A-Za-z])", re.IGNORECASE)


def find_quantity(side: str) -> tuple[Fraction, str, str] | None:
    """Find the first quantity: its value without sign, and the text around it.

    Raises Refusal: there are digits, but not exactly one number.

    """
    start = _START.search(side)
    if start is None:
        return None
    quantity = _QUANTITY.match(side, start.start())  # matches: _START is the beginning of _QUANTITY
    left = side[: quantity.start()]
    value = _value(quantity)
    factor, right = _multiplier(left, side[quantity.end() :])
    value *= factor
    half = _AND_A_HALF.match(right)
    if half and factor == 1 and value.denominator == 1:
        value, right = value + Fraction(1, 2), right[half.end() :]
    if any(c.isdigit() for c in right):
        raise Refusal("more than one number")
    return value, left, right


def _value(quantity: re.Match[str]) -> Fraction:
    a = decimal_value(quantity["a"])
    if quantity["d"]:
        return _ratio(a, decimal_value(quantity["d"]))
    if quantity["n"]:
        part = _ratio(decimal_value(quantity["n"]), decimal_value(quantity["m"]))
        if a.denominator != 1 or part >= 1 or "e" in quantity["a"].lower():
            raise Refusal("more than one number")
        return a + part
    if quantity["e"]:
        return a * Fraction(10) ** _exponent(quantity["e"].replace(" ", ""))
    return a


def _exponent(text: str) -> int:
    if len(text) > 4 or abs(int(text)) > DIGIT_LIMIT:
        raise Refusal("an exponent beyond the limit")
    return int(text)


def _ratio(top: Fraction, bottom: Fraction) -> Fraction:
    if top.denominator != 1 or bottom.denominator != 1:
        raise Refusal("a division that is not carried out")
    if bottom == 0:
        raise Refusal("a division by zero")
    return top / bottom


def decimal_value(run: str) -> Fraction:
    """Return the exact value of digits, separators and exponent, or refuse."""
    if len(run) > DIGIT_LIMIT:
        raise Refusal("a number of too many digits")
    if "," in run or "\u2009" in run:
        if not _GROUPED.fullmatch(run):
            raise Refusal("a number whose separators do not part thousands")
        run = run.replace(",", "").replace("\u2009", "")
    parts = _DECIMAL.fullmatch(run)
    if parts is None:
        raise Refusal("a version number, date or list")
    whole, decimals, exponent = parts[1], parts[2] or "", parts[3]
    scale = -len(decimals)
    if exponent:
        scale += _exponent(exponent)
    digits = int((whole + decimals) or "0")
    return Fraction(digits * 10**scale) if scale >= 0 else Fraction(digits, 10**-scale)


def _multiplier(left: str, right: str) -> tuple[int, str]:
    suffix = _MONEY_SUFFIX.match(right)
    if suffix and left.rstrip().endswith("$"):
        return _SUFFIX_VALUE[suffix[1].lower()], right[suffix.end() :]
    factor = 1
    found = _MULTIPLIER.match(right)
    while found:
        factor *= MULTIPLIERS[found[1].lower()]
        if factor > 10**DIGIT_LIMIT:
            raise Refusal("a number of too many digits")
        right = right[found.end() :]
        found = _MULTIPLIER.match(right)
    return factor, right
