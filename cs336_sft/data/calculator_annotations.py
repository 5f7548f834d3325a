"""Evaluates the calculator annotations ``<<48/2=24>>`` of a text, exactly and without ``eval``.

The text may be a model's output: numbers and expressions have a bounded length, and no string raises an exception.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

# Bounds on hostile input. GSM8K's longest annotation has 67 characters.
MAX_TEXT = 100_000
MAX_EXPRESSION = 200
MAX_PARENTHESES = 20

_EXPRESSION = re.compile(r"[0-9.+*/()\s-]+", re.ASCII)
_LONG_NUMBER = re.compile(r"[0-9]{19}")
_LEADING_ZEROS = re.compile(r"(?<![0-9.])0+(?=[0-9])")  # Python's grammar has no 007
_OPERATIONS = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@dataclass(frozen=True)
class AnnotationCheck:
    """One annotation; unreadable if not of the form expression = number, too long, never closed, or 1/0."""

    text: str  # between << and >>, its first 200 characters
    status: Literal["right", "wrong", "unreadable"]


def check_annotations(answer: str) -> list[AnnotationCheck]:
    """Check every annotation of the text, in order.

    A result is right if it is the value, or the value rounded to the result's decimals (GSM8K writes
    ``<<10/3=3.33>>``). Only the first 100,000 characters are read.

    >>> [check.status for check in check_annotations("<<48/2=24>> <<10/3=3.33>> <<2+2=5>> <<2**9=512>>")]
    ['right', 'right', 'wrong', 'unreadable']
    """
    checks = []
    for part in answer[:MAX_TEXT].split("<<")[1:]:
        text, closed, _ = part.partition(">>")
        checks.append(_check(text) if closed else AnnotationCheck(text[:MAX_EXPRESSION], "unreadable"))
    return checks


def _check(text: str) -> AnnotationCheck:
    expression, _, result = text.rpartition("=")
    value, written = evaluate_expression(expression), evaluate_expression(result)
    text = text[:MAX_EXPRESSION]
    # The result must be a number: "<<2+2=1+3>>" states an equation, not a result.
    if value is None or written is None or any(sign in result.strip().lstrip("+-") for sign in "+-*/("):
        return AnnotationCheck(text, "unreadable")
    decimals = len(result.strip().partition(".")[2])
    # Half a unit of the last decimal, either way: people round halves both up and to even.
    rounded = decimals > 0 and abs(value - written) * 2 * 10**decimals <= 1
    return AnnotationCheck(text, "right" if value == written or rounded else "wrong")


def evaluate_expression(expression: str) -> Fraction | None:
    """Evaluate numbers (``12``, ``0.5``, ``.5``), ``+ - * /``, signs and parentheses.

    All arithmetic is on fractions. Returns None for anything else, and for a division by zero.
    """
    expression = expression.strip()
    if len(expression) > MAX_EXPRESSION or expression.count("(") > MAX_PARENTHESES:
        return None
    if not _EXPRESSION.fullmatch(expression) or _LONG_NUMBER.search(expression):
        return None
    source = _LEADING_ZEROS.sub("", " ".join(expression.split()))
    try:
        return _value(ast.parse(source, mode="eval").body, source)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr, source: str) -> Fraction:
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(source[node.col_offset : node.end_col_offset])  # a float would not be exact
        case ast.UnaryOp(op=sign, operand=operand):
            return _OPERATIONS[type(sign)](_value(operand, source))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATIONS:
            return _OPERATIONS[type(sign)](_value(left, source), _value(right, source))
    raise ValueError("outside the grammar")
