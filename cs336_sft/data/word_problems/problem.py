"""A word problem with its structure: the text, the steps of the solution, and the graph of operations.

Templates compute with ``Quantity`` objects. An expression remembers its operands, so the annotation
``<<48/2=24>>``, its value and its place in the graph come from the same object and can't disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from cs336_sft.records import Problem

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_ATOM = 3


class Quantity:
    """A number as it is written, and how it came about.

    ``operation`` is None for a number given in the question, else ``(operator, left, right)``.

    >>> boxes, each, eaten = Quantity(3), Quantity(12), Quantity(5)
    >>> left = (boxes + eaten) * each
    >>> left.text, left.value
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
    """One sentence of a solution, in pieces, so that it can be written in several ways.

    Attributes:
        before: the words before the computation (``"Natalia sold"``).
        expression: what is computed (``"48/2"``), digits and ``+ - * / ( )`` only.
        result: its value as written (``"24"``).
        after: the words after it, without the full stop (``"clips in May"``), perhaps empty.
        currency: ``"$"`` before an amount of money, else empty.

    >>> step = Step("Natalia sold", "48/2", "24", "clips in May")
    >>> step.annotated()
    'Natalia sold 48/2 = <<48/2=24>>24 clips in May.'
    >>> step.plain()
    'Natalia sold 48/2 = 24 clips in May.'
    >>> step.clause()
    'Natalia sold 24 clips in May'
    """

    before: str
    expression: str
    result: str
    after: str = ""
    currency: str = ""

    def annotated(self) -> str:
        """The sentence as GSM8K writes it, with the calculator annotation."""
        annotation = f"<<{self.expression}={self.result}>>"
        return f"{self.before} {self.expression} = {self.currency}{annotation}{self.result}{self._tail()}."

    def plain(self) -> str:
        """The sentence with the computation but without the annotation."""
        return f"{self.before} {self.expression} = {self.currency}{self.result}{self._tail()}."

    def clause(self) -> str:
        """The statement alone, without the computation and without the full stop."""
        return f"{self.before} {self.currency}{self.result}{self._tail()}"

    def _tail(self) -> str:
        return f" {self.after}" if self.after else ""


@dataclass(frozen=True)
class WordProblem:
    """A generated problem with its structure.

    Attributes:
        template: the name of the situation template.
        question: the text of the question.
        steps: the solution; the last step computes the final answer, and every step is needed for it.
        final: the exact value of the final answer.
        unit: what the answer counts (``"clips"``, ``"dollars"``, ``"hours"``).
        subject: the person the story is about, or empty.
        root: the final answer as a ``Quantity``, from which ``graph`` is read.
    """

    template: str
    question: str
    steps: tuple[Step, ...]
    final: int | Fraction
    unit: str
    subject: str = ""
    root: Quantity | None = field(default=None, repr=False, compare=False)

    @property
    def final_text(self) -> str:
        """The final answer as a plain decimal string."""
        return self.steps[-1].result

    @property
    def conclusion(self) -> str:
        """A closing statement with the answer in it, without a full stop: ``"Natalia sold 72 clips altogether"``."""
        return self.steps[-1].clause()

    @property
    def graph(self) -> str:
        """The graph of operations in a canonical form; see `operation_graph`."""
        if self.root is None:
            raise ValueError("this problem was made without its graph")
        return operation_graph(self.root)


def operation_graph(root: Quantity) -> str:
    """The operations that lead to ``root``, as text that is the same for the same graph.

    Given numbers are all ``n``. Operands of ``+`` and ``*`` are sorted. A result that is used again is written
    out once and then called ``#k``, ``k`` being the order of the first writing, so that ``x + x/n`` with
    ``x = n*n`` differs from ``n*n + n*n/n``. Where sentences break is not part of the graph.

    >>> a, b, c = Quantity(6), Quantity(4), Quantity(2)
    >>> product = a * b
    >>> operation_graph(product + product / c)
    '+(*(n,n)=#0,/(#0,n))'
    >>> operation_graph(c * a + b) == operation_graph(b + a * c)
    True
    """
    uses: dict[int, int] = {}

    def count(node: Quantity) -> None:
        uses[id(node.operation)] = uses.get(id(node.operation), 0) + 1
        if node.operation and uses[id(node.operation)] == 1:
            count(node.operation[1])
            count(node.operation[2])

    def unrolled(node: Quantity) -> str:
        if node.operation is None:
            return "n"
        operator, left, right = node.operation
        operands = [unrolled(left), unrolled(right)]
        if operator in "+*":
            operands.sort()
        return f"{operator}({','.join(operands)})"

    names: dict[int, str] = {}

    def write(node: Quantity) -> str:
        if node.operation is None:
            return "n"
        key = id(node.operation)
        if key in names:
            return names[key]
        operator, left, right = node.operation
        operands = [left, right]
        if operator in "+*":
            # Short operands first: a shared result is then named where it stands alone.
            operands.sort(key=lambda operand: (len(unrolled(operand)), unrolled(operand)))
        text = f"{operator}({','.join(write(operand) for operand in operands)})"
        if uses[key] > 1:
            names[key] = f"#{len(names)}"
            text += f"={names[key]}"
        return text

    count(root)
    return write(root)


def to_problem(word_problem: WordProblem, id: str = "") -> Problem:
    """The problem in GSM8K's form: one annotated sentence a line, and ``#### N``.

    >>> step = Step("Natalia sold", "48/2", "24", "clips in May")
    >>> to_problem(WordProblem("half", "How many?", (step,), 24, "clips")).answer
    'Natalia sold 48/2 = <<48/2=24>>24 clips in May.\\n#### 24'
    """
    lines = [step.annotated() for step in word_problem.steps]
    final = word_problem.final_text
    lines.append(f"#### {final}")
    return Problem(word_problem.question, "\n".join(lines), final, id=id, template=word_problem.template)
