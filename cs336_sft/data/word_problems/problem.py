"""A word problem with its structure: the text, and the steps of the solution.

Templates compute with ``Quantity`` objects. An expression remembers its operands, so the annotation
``<<48/2=24>>``, its value and the operations come from the same object and can't disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_ATOM = 3


class Quantity:
    """A number with its text and its operation ``(operator, left, right)``, None if the question gives it.

    >>> result = (Quantity(3) + Quantity(5)) * Quantity(12)
    >>> result.text, result.value
    ('(3+5)*12', 96)
    """

    __slots__ = ("operation", "precedence", "text", "value")

    def __init__(
        self,
        value: int | Fraction,
        text: str | None = None,
        operation: tuple[str, Quantity, Quantity] | None = None,
        precedence: int = _ATOM,
    ) -> None:
        self.value = value
        self.text = str(value) if text is None else text
        self.operation = operation
        self.precedence = precedence

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Quantity) -> Quantity:
        return _combine("+", self, other, self.value + other.value)

    def __sub__(self, other: Quantity) -> Quantity:
        return _combine("-", self, other, self.value - other.value)

    def __mul__(self, other: Quantity) -> Quantity:
        return _combine("*", self, other, self.value * other.value)

    def __truediv__(self, other: Quantity) -> Quantity:
        return _combine("/", self, other, Fraction(self.value) / other.value)


def _combine(operator: str, left: Quantity, right: Quantity, value: int | Fraction) -> Quantity:
    if type(value) is Fraction and value.denominator == 1:
        value = value.numerator
    precedence = _PRECEDENCE[operator]
    left_text = left.text if left.precedence >= precedence else f"({left.text})"
    # a-(b-c) and a/(b/c) need their parentheses; a+(b+c) gets them too, which is harmless and never used.
    right_text = right.text if right.precedence > precedence else f"({right.text})"
    return Quantity(value, f"{left_text}{operator}{right_text}", (operator, left, right), precedence)


@dataclass(frozen=True)
class Step:
    """One sentence of a solution, in pieces.

    >>> step = Step("Natalia sold", "48/2", "24", "clips in May")
    >>> step.annotated(), step.clause()
    ('Natalia sold 48/2 = <<48/2=24>>24 clips in May.', 'Natalia sold 24 clips in May')
    """

    before: str  # the words before the computation
    expression: str  # digits and + - * / ( ) only
    result: str
    after: str = ""  # the words after it, without the full stop
    currency: str = ""  # "$" before an amount of money

    def annotated(self) -> str:
        """Return the sentence as GSM8K writes it, with the calculator annotation."""
        annotation = f"<<{self.expression}={self.result}>>"
        return f"{self.before} {self.expression} = {self.currency}{annotation}{self.result}{self._tail()}."

    def plain(self) -> str:
        """Return the sentence with the computation but without the annotation."""
        return f"{self.before} {self.expression} = {self.currency}{self.result}{self._tail()}."

    def clause(self) -> str:
        """Return the statement alone, without computation and full stop."""
        return f"{self.before} {self.currency}{self.result}{self._tail()}"

    def _tail(self) -> str:
        return f" {self.after}" if self.after else ""


@dataclass(frozen=True)
class WordProblem:
    """A generated problem with its structure."""

    template: str
    question: str
    steps: tuple[Step, ...]  # the last one computes the final answer, and every step is needed for it
    final: int | Fraction
    unit: str  # what the answer counts
    root: Quantity | None = field(default=None, repr=False, compare=False)  # leads to every operation

    @property
    def final_text(self) -> str:
        """Return the final answer as a plain decimal string."""
        return self.steps[-1].result

    @property
    def answer(self) -> str:
        """Return the solution in GSM8K's form: annotated sentences, then ``#### N``."""
        return "\n".join([*(step.annotated() for step in self.steps), f"#### {self.final_text}"])

    @property
    def conclusion(self) -> str:
        """Return a closing statement: ``"Natalia sold 72 clips altogether"``."""
        return self.steps[-1].clause()
