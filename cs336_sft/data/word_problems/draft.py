"""The tools of a template: seeded draws of numbers, people and wording, and steps that are checked at once."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby
from typing import TypeVar

from cs336_sft.data.word_problems.names import PEOPLE, Person
from cs336_sft.data.word_problems.problem import Quantity, Step, WordProblem

T = TypeVar("T")

# The embedded model has to learn these: few digits, and answers of at most about 110 tokens.
LARGEST = 999
LONGEST_ANSWER = 114


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
        self._last: Quantity | None = None

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]

    def say(self, *wordings: str) -> str:
        """Pick one of several wordings."""
        return wordings[int(self._random() * len(wordings))]

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
        """Discard the draw unless the condition holds."""
        if not condition:
            raise Redraw

    def step(self, before: str, expression: Quantity, after: str = "", *, money: bool = False) -> Quantity:
        """Add a sentence and return its result, a whole number from 2 (plural) to 999."""
        value = expression.value
        if type(value) is not int or not 2 <= value <= LARGEST:
            raise Redraw
        result = Quantity(value, str(value), expression.operation)
        self._steps.append(Step(before, expression.text, result.text, after, "$" if money else ""))
        self._last = result
        return result

    def finish(self, question: str, unit: str) -> WordProblem:
        """Return the problem, or discard the draw if the answer is too long."""
        if sum(map(_tokens, self._steps)) + 6 > LONGEST_ANSWER:
            raise Redraw
        assert self._last is not None
        return WordProblem(
            template=self._template,
            question=question,
            steps=tuple(self._steps),
            final=self._last.value,
            unit=unit,
            root=self._last,
        )


def _tokens(step: Step) -> int:
    """Estimate the tokens of a step: one a word, two a sign of the computation."""
    words = step.before.count(" ") + step.after.count(" ") + (2 if step.after else 1)
    return words + 2 * (len(step.expression) + len(step.result)) + 7
