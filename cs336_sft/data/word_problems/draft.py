"""What a problem is, and the tools of a template: seeded draws of people, things, numbers and wording, and steps.

An expression remembers its operands, so an annotation ``<<48/2=24>>`` and its value can't disagree.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import groupby
from typing import TypeVar

T = TypeVar("T")

# The embedded model has to learn these: few digits, and answers of at most about 110 tokens.
LARGEST = 999
LONGEST_ANSWER = 114
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_ATOM = 3


@dataclass(eq=False, slots=True)
class Quantity:
    """A number with its text and the operation that it is the result of.

    >>> result = (Quantity(3) + Quantity(5)) * Quantity(12)
    >>> result.text, result.value
    ('(3+5)*12', 96)
    """

    value: int | Fraction
    text: str = ""
    operation: tuple[str, Quantity, Quantity] | None = None  # operator, left, right; None if the question gives it
    precedence: int = _ATOM

    def __post_init__(self) -> None:
        self.text = self.text or str(self.value)

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
        return self._write(f"{self.expression} = {self.currency}<<{self.expression}={self.result}>>") + "."

    def plain(self) -> str:
        """Return the sentence with the computation but without the annotation."""
        return self._write(f"{self.expression} = {self.currency}") + "."

    def clause(self) -> str:
        """Return the statement alone, without computation and full stop."""
        return self._write(self.currency)

    def _write(self, computation: str) -> str:
        return f"{self.before} {computation}{self.result} {self.after}".rstrip()


@dataclass(frozen=True)
class WordProblem:
    """A generated problem with its structure."""

    template: str
    question: str
    steps: tuple[Step, ...]  # the last one computes the final answer, and every step is needed for it
    unit: str  # what the answer counts
    root: Quantity = field(repr=False, compare=False)  # the last result, which leads to every operation

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


@dataclass(frozen=True)
class Person:
    name: str
    they: str
    their: str

    def __str__(self) -> str:
        return self.name

    @property
    def They(self) -> str:  # noqa: N802 - the capitalised pronoun
        return self.they.capitalize()


_WOMEN = "Mia Anna Lily Emma Sara Nina Ruth Julia Maria Ella Grace Alice Clara Dana Eva Hannah Ivy Kate Zoe Lucy"
_MEN = "Tom Ben Jack Leo Sam Max Omar Paul Noah Adam Carl David Eric Felix Henry Ivan James Kevin Luke Peter"

PEOPLE = tuple(Person(name, "she", "her") for name in _WOMEN.split()) + tuple(
    Person(name, "he", "his") for name in _MEN.split()
)
PART_WORDS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth", 6: "a sixth"}

# Plural nouns of things that are counted and can change hands.
COLLECTION = tuple("marbles stickers shells cards stamps coins beads buttons stones badges pencils comics".split())
BAKED = tuple("muffins cookies rolls cupcakes buns pies bagels tarts".split())
FRUIT = tuple("apples pears oranges lemons plums peaches melons mangoes".split())
RELATIVES = tuple("mother father aunt uncle teacher coach".split())


def _with_plural(names: str) -> tuple[tuple[str, str], ...]:
    plurals = {"scarf": "scarves", "sandwich": "sandwiches", "watch": "watches"}
    return tuple((name, plurals.get(name, f"{name}s")) for name in names.split(", "))


# (singular, plural) of things with a price in whole dollars, of dear things that are saved for or reduced, and of
# small things with a price in dollars and half dollars.
GOODS = _with_plural("notebook, book, toy car, puzzle, scarf, plant, lamp, mug, shirt, hat, ball, pillow")
DEAR_GOODS = _with_plural("bicycle, jacket, guitar, tent, camera, desk, watch, radio")
SNACKS = _with_plural("sandwich, juice, salad, muffin, pie, soup, bagel, taco")


def times(number: object) -> str:
    return "twice" if str(number) == "2" else f"{number} times"


class Redraw(Exception):  # noqa: N818 - not an error: the draw is discarded and made again
    """The numbers drawn do not make a sensible problem."""


class Draft:
    """A problem under construction. The template draws from it, adds steps, and ends with `finish`."""

    def __init__(self, rng: random.Random, template: str) -> None:
        self._rng = rng
        self._random = rng.random
        self._template = template
        self._people: list[Person] = []
        self._steps: list[Step] = []

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def say(self, *wordings: str) -> str:
        return self.pick(wordings)

    def maybe(self, sentence: str) -> str:
        """Return an irrelevant sentence after a space in every second problem."""
        return f" {sentence}" if self._random() < 0.5 else ""

    def story(self, text: str) -> str:
        """Join the sentences of a text, which has one a line.

        ``|`` separates wordings of a sentence, of which one is picked. Neighbouring lines that begin with ``- `` come
        in any order.
        """
        lines = re.sub(r"\n *\|", " |", text.strip()).split("\n")
        sentences = []
        for in_any_order, group in groupby(map(str.strip, lines), key=lambda line: line.startswith("- ")):
            wordings = [line.removeprefix("- ").split(" | ") for line in group]
            picked = [self.say(*several) if len(several) > 1 else several[0] for several in wordings]
            sentences += [self.facts(*picked)] if in_any_order else picked
        return " ".join(sentences)

    def facts(self, *sentences: str) -> str:
        """Join the sentences in any order."""
        order = list(sentences)
        self._rng.shuffle(order)
        return " ".join(order)

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Pick two different options."""
        first = int(self._random() * len(options))
        second = int(self._random() * (len(options) - 1))
        return options[first], options[second + (second >= first)]

    def person(self) -> Person:
        """Pick somebody who is not in the story yet."""
        while True:
            person = self.pick(PEOPLE)
            if person not in self._people:
                self._people.append(person)
                return person

    def integer(self, low: int, high: int, multiple: int = 1) -> int:
        """Draw a multiple of ``multiple`` from ``low`` to ``high``, both included."""
        return low + multiple * int(self._random() * ((high - low) // multiple + 1))

    def number(self, low: int, high: int, multiple: int = 1) -> Quantity:
        """Draw a quantity that the question gives."""
        return Quantity(self.integer(low, high, multiple))

    def given(self, value: int) -> Quantity:
        return Quantity(value)

    def price(self, low: int, high: int) -> Quantity:
        """Draw a price from ``low`` to ``high`` dollars, every third with 50 cents."""
        dollars = self.integer(low, high)
        if self._random() < 0.33:
            return Quantity(Fraction(2 * dollars + 1, 2), f"{dollars}.50")
        return Quantity(dollars)

    def need(self, condition: bool) -> None:
        if not condition:
            raise Redraw

    def step(self, before: str, expression: Quantity, after: str = "", *, money: bool = False) -> Quantity:
        """Add a sentence and return its result, a whole number from 2 (plural) to 999."""
        value = expression.value
        if type(value) is not int or not 2 <= value <= LARGEST:
            raise Redraw
        result = Quantity(value, str(value), expression.operation)
        self._steps.append(Step(before, expression.text, result.text, after, "$" if money else ""))
        self._root = result
        return result

    def finish(self, question: str, unit: str) -> WordProblem:
        """Return the problem, or discard the draw if the answer is too long."""
        if sum(map(_tokens, self._steps)) + 6 > LONGEST_ANSWER:
            raise Redraw
        return WordProblem(self._template, question, tuple(self._steps), unit, self._root)


def _tokens(step: Step) -> int:
    """Estimate the tokens of a step: one a word, two a sign of the computation."""
    words = step.before.count(" ") + step.after.count(" ") + (2 if step.after else 1)
    return words + 2 * (len(step.expression) + len(step.result)) + 7
