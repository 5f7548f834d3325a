"""Outcomes problem by problem, and the change of accuracy between two evaluations, by outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import Interval, paired_difference_interval
from cs336_sft.records import Graded

# In the order in which the questions are asked. One letter each, so that an evaluation is a short string.
OUTCOMES = {"R": "right", "F": "right, but not in the format", "C": "cut off by the limit", "W": "wrong"}


def outcome(graded: Graded) -> str:
    """Return the letter of a graded generation in `OUTCOMES`."""
    if graded.reward > 0 or graded.lenient > 0:
        return "R" if graded.reward > 0 else "F"
    return "C" if graded.generation.finish_reason == "length" else "W"


def outcome_letters(graded: Sequence[Graded]) -> str:
    """Return the outcomes of an evaluation, one letter a generation, in their order."""
    return "".join(map(outcome, graded))


def is_correct(letters: str, lenient: bool = False) -> list[float]:
    """Return 1.0 for each right problem (`lenient`: in any format), else 0.0."""
    return [float(letter in ("RF" if lenient else "R")) for letter in letters]


@dataclass(frozen=True)
class AccuracyChange:
    """Gains and losses of accuracy between two evaluations of the same problems."""

    n: int  # problems
    difference: Interval  # accuracy after minus before, paired
    gained: dict[str, int]  # outcome before -> problems that are right now
    lost: dict[str, int]  # outcome now -> problems that were right before

    def net(self, letter: str) -> float:
        """Return the part of the difference that one outcome, before or after, makes."""
        return (self.gained[letter] - self.lost[letter]) / self.n


def decompose_change(before: str, after: str, *, lenient: bool = False) -> AccuracyChange:
    """Decompose a difference of accuracies by the outcomes that changed.

    The outcomes are those of the same problems in the same order. With `lenient`, `F` counts as right.

    >>> change = decompose_change("RRRRFW", "RRCWRW")
    >>> change.gained, change.lost
    ({'F': 1, 'C': 0, 'W': 0}, {'F': 0, 'C': 1, 'W': 1})
    """
    if len(before) != len(after):
        remedy = "give those of the same problems, in the same order"
        raise DataError(f"{len(before)} and {len(after)} outcomes", remedy)
    right = "RF" if lenient else "R"
    others = [letter for letter in OUTCOMES if letter not in right]
    pairs = list(zip(before, after, strict=True))
    return AccuracyChange(
        n=len(pairs),
        difference=paired_difference_interval(is_correct(before, lenient), is_correct(after, lenient)),
        gained={letter: sum(a == letter and b in right for a, b in pairs) for letter in others},
        lost={letter: sum(a in right and b == letter for a, b in pairs) for letter in others},
    )
