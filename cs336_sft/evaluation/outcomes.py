"""Outcomes problem by problem."""

from __future__ import annotations

from collections.abc import Sequence

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
