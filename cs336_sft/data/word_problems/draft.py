"""What a template writes with: seeded draws of numbers, people and wording, and steps that are checked at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

from cs336_sft.data.word_problems.names import PEOPLE, Person
from cs336_sft.data.word_problems.problem import Quantity, Step, WordProblem

T = TypeVar("T")

# The embedded model has to learn these: few digits, and answers of at most about 110 tokens.
LARGEST = 999
LONGEST_ANSWER = 114


class Redraw(Exception):  # noqa: N818 - not an error: the draw is thrown away and made again
    """The numbers drawn do not make a sensible problem."""


class Draft:
    """One problem in the making. The template draws from it, adds steps, and ends with `finish`.

    >>> draft = Draft(random.Random(0), "example")
    >>> boxes, each = draft.given(3), draft.given(12)
    >>> total = draft.step("Tom has", boxes * each, "pencils")
    >>> problem = draft.finish("Tom has 3 boxes of 12 pencils. How many pencils does he have?", "pencils")
    >>> problem.conclusion
    'Tom has 36 pencils'
    """

    def __init__(self, rng: random.Random, template: str) -> None:
        self._rng = rng
        self._random = rng.random
        self._template = template
        self._people: list[Person] = []
        self._steps: list[Step] = []
        self._last: Quantity | None = None

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def say(self, *wordings: str) -> str:
        """One of several wordings of the same thing."""
        return wordings[int(self._random() * len(wordings))]

    def maybe(self, sentence: str) -> str:
        """The sentence, with a space before it, in every second problem: for facts that do not matter."""
        return f" {sentence}" if self._random() < 0.5 else ""

    def facts(self, *sentences: str) -> str:
        """The sentences in any order."""
        order = list(sentences)
        self._rng.shuffle(order)
        return " ".join(order)

    def two(self, options: Sequence[T]) -> tuple[T, T]:
        """Two different options."""
        first = int(self._random() * len(options))
        second = int(self._random() * (len(options) - 1))
        return options[first], options[second + (second >= first)]

    def person(self) -> Person:
        """Somebody who is not in the story yet."""
        while True:
            person = self.pick(PEOPLE)
            if person not in self._people:
                self._people.append(person)
                return person

    def integer(self, low: int, high: int, multiple: int = 1) -> int:
        """A multiple of ``multiple`` from ``low`` to ``high``, both included and both multiples themselves."""
        return low + multiple * int(self._random() * ((high - low) // multiple + 1))

    def number(self, low: int, high: int, multiple: int = 1) -> Quantity:
        """The same as a quantity given in the question."""
        return Quantity(self.integer(low, high, multiple))

    def given(self, value: int) -> Quantity:
        return Quantity(value)

    def price(self, low: int, high: int) -> Quantity:
        """A price from ``low`` to ``high`` dollars: whole dollars, or (every third) with 50 cents."""
        dollars = self.integer(low, high)
        if self._random() < 0.33:
            return Quantity(Fraction(2 * dollars + 1, 2), f"{dollars}.50")
        return Quantity(dollars)

    def need(self, condition: bool) -> None:
        """Throws the draw away unless the condition holds."""
        if not condition:
            raise Redraw

    def step(self, before: str, expression: Quantity, after: str = "", *, money: bool = False) -> Quantity:
        """Adds a sentence; returns its result. Results are whole numbers from 2 (so plurals are right) to 999."""
        value = expression.value
        if type(value) is not int or not 2 <= value <= LARGEST:
            raise Redraw
        result = Quantity(value, str(value), expression.operation)
        self._steps.append(Step(before, expression.text, result.text, after, "$" if money else ""))
        self._last = result
        return result

    def finish(self, question: str, unit: str) -> WordProblem:
        """The problem; the last step is its answer. Throws the draw away if the answer grew too long."""
        if sum(map(_tokens, self._steps)) + 6 > LONGEST_ANSWER:
            raise Redraw
        assert self._last is not None
        return WordProblem(
            template=self._template,
            question=question,
            steps=tuple(self._steps),
            final=self._last.value,
            unit=unit,
            subject=self._people[0].name if self._people else "",
            root=self._last,
        )


def _tokens(step: Step) -> int:
    """About how many tokens a step takes: a token a word, two a sign of the computation, and the rest."""
    words = step.before.count(" ") + step.after.count(" ") + (2 if step.after else 1)
    return words + 2 * (len(step.expression) + len(step.result)) + 7
