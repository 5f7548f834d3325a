"""Re-evaluates the calculator annotations ``<<48/2=24>>`` of a text, exactly and without ``eval``.

The text may be a model's output, so nothing in it is trusted: the only operations are ``+ - * /``, numbers and
expressions have a bounded length, and no string raises an exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Verdict = Literal["right", "wrong", "unreadable"]

# Bounds on hostile input. GSM8K's longest annotation has 67 characters.
MAX_TEXT = 100_000
MAX_EXPRESSION = 200
MAX_DEPTH = 20

# Of a longer run of digits the rest becomes a second number, which the grammar refuses.
_TOKEN = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}|[-+*/()])", re.ASCII)


@dataclass(frozen=True)
class AnnotationCheck:
    """What became of one annotation.

    Attributes:
        text: what stood between ``<<`` and ``>>``, its first 200 characters.
        verdict: ``"right"``, ``"wrong"`` (the result is not the value), or ``"unreadable"`` (not of the form
            expression = number, too long, never closed, or a division by zero).
        value: the exact value of the expression, None if unreadable.
    """

    text: str
    verdict: Verdict
    value: Fraction | None = None


class _Unreadable(Exception):  # noqa: N818 - never leaves this module
    """The expression is outside the grammar."""


def check_annotations(answer: str) -> list[AnnotationCheck]:
    """Every annotation of the text, in order, with its verdict.

    The grammar: ``sum = product (("+"|"-") product)*``, ``product = factor (("*"|"/") factor)*``,
    ``factor = ("+"|"-") factor | number | "(" sum ")"``, numbers as ``12``, ``0.5`` or ``.5``. All arithmetic is
    on fractions. A result is right if it is the value, or the value rounded to the result's decimals when it has
    any (GSM8K writes ``<<10/3=3.33>>``). What stands beyond the first 100,000 characters is not read.

    >>> [check.verdict for check in check_annotations("<<48/2=24>> <<5*.2=1>> <<10/3=3.33>>")]
    ['right', 'right', 'right']
    >>> [check.verdict for check in check_annotations("<<2+2=5>> <<2**9=512>> <<1/0=1>> <<x+1=2>>")]
    ['wrong', 'unreadable', 'unreadable', 'unreadable']
    """
    checks = []
    for part in answer[:MAX_TEXT].split("<<")[1:]:
        text, closed, _ = part.partition(">>")
        checks.append(_check(text) if closed else AnnotationCheck(text[:MAX_EXPRESSION], "unreadable"))
    return checks


def evaluate_expression(expression: str) -> Fraction | None:
    """The exact value of an expression in the grammar of `check_annotations`, or None if it is not one.

    >>> evaluate_expression("(1+2)*3/4")
    Fraction(9, 4)
    >>> evaluate_expression("2**3") is None
    True
    """
    try:
        return _Parser(_tokenize(expression)).parse()
    except _Unreadable:
        return None


def _check(text: str) -> AnnotationCheck:
    expression, _, result = text.rpartition("=")
    value, written = evaluate_expression(expression), evaluate_expression(result)
    text = text[:MAX_EXPRESSION]
    # The result must be a number: "<<2+2=1+3>>" states an equation, not a result.
    if value is None or written is None or any(sign in result.strip().lstrip("+-") for sign in "+-*/("):
        return AnnotationCheck(text, "unreadable")
    right = value == written or _is_rounded(value, written, result)
    return AnnotationCheck(text, "right" if right else "wrong", value)


def _is_rounded(value: Fraction, written: Fraction, result: str) -> bool:
    decimals = len(result.strip().partition(".")[2])
    # Half a unit of the last decimal, either way: people round halves both up and to even.
    return decimals > 0 and abs(value - written) * 2 * 10**decimals <= 1


def _tokenize(expression: str) -> list[str]:
    expression = expression.strip()
    if not expression or len(expression) > MAX_EXPRESSION:
        raise _Unreadable
    tokens = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            raise _Unreadable
        tokens.append(match.group(1))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens; each method reads one rule of the grammar and returns its value."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0

    def parse(self) -> Fraction:
        value = self._sum()
        if self._peek():
            raise _Unreadable
        return value

    def _peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._position += 1
        return token

    def _sum(self) -> Fraction:
        value = self._product()
        while self._peek() in ("+", "-"):
            value = value + self._product() if self._next() == "+" else value - self._product()
        return value

    def _product(self) -> Fraction:
        value = self._factor()
        while self._peek() in ("*", "/"):
            operator, operand = self._next(), self._factor()
            if operator == "/" and operand == 0:
                raise _Unreadable
            value = value * operand if operator == "*" else value / operand
        return value

    def _factor(self) -> Fraction:
        token = self._next()
        if token and token[0] in "0123456789.":
            return Fraction(f"0{token}0" if "." in token else token)
        self._depth += 1
        if self._depth > MAX_DEPTH or token not in ("+", "-", "("):
            raise _Unreadable
        if token == "(":
            value = self._sum()
            if self._next() != ")":
                raise _Unreadable
        else:
            value = self._factor() if token == "+" else -self._factor()
        self._depth -= 1
        return value
