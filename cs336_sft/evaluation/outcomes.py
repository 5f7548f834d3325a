"""What became of each problem, and of what a difference between two evaluations is made.

Two accuracies say how much was won or lost. Problem by problem there is more to see: a problem that is lost because the
answer was cut off is another matter than one whose answer is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cs336_sft.errors import DataError
from cs336_sft.evaluation.evaluate import read_generations
from cs336_sft.evaluation.intervals import Interval, paired_difference_interval
from cs336_sft.records import Graded

# In the order in which the questions are asked. One letter each, so that an evaluation is a short string.
OUTCOMES = {
    "R": "right",
    "F": "right, but not in the format",
    "C": "cut off by the limit",
    "W": "wrong",
}


def outcome(graded: Graded) -> str:
    """The letter of a graded generation; see ``OUTCOMES``.

    ``F`` is an answer that a lenient reader finds right; ``C`` one that ran to the limit and is not right either way.

    >>> from cs336_sft.records import Generation, Problem
    >>> cut = Generation("Q", (5, 6), " 5 and", "length")
    >>> outcome(Graded(Problem("2 + 3?", "#### 5", "5"), cut, 0.0, 0.0, 0.0, lenient=1.0))
    'F'
    >>> outcome(Graded(Problem("2 + 4?", "#### 6", "6"), cut, 0.0, 0.0, 0.0, lenient=0.0))
    'C'
    """
    if graded.reward > 0:
        return "R"
    if graded.lenient > 0:
        return "F"
    return "C" if graded.generation.finish_reason == "length" else "W"


def outcome_letters(graded: Sequence[Graded]) -> str:
    """The outcomes of an evaluation, one letter a generation, in their order.

    >>> outcome_letters([])
    ''
    """
    return "".join(map(outcome, graded))


def read_outcomes(run_dir: str | Path) -> dict[int, str]:
    """step -> outcomes, for every evaluation whose generations a run keeps."""
    files = sorted((Path(run_dir) / "generations").glob("step-*.jsonl"))
    return {int(path.stem.removeprefix("step-")): outcome_letters(read_generations(path)) for path in files}


def rights(letters: str, lenient: bool = False) -> list[float]:
    """1.0 for each problem that is right: in the format, or by any readable answer.

    >>> rights("RFCW"), rights("RFCW", lenient=True)
    ([1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    """
    return [float(letter in ("RF" if lenient else "R")) for letter in letters]


@dataclass(frozen=True)
class Change:
    """What accuracy gained and lost between two evaluations of the same problems.

    Attributes:
        n: problems.
        difference: of the accuracies, second minus first, with its paired 95 % interval.
        gained: outcome before -> problems that are right now.
        lost: outcome now -> problems that were right before.
    """

    n: int
    difference: Interval
    gained: dict[str, int]
    lost: dict[str, int]

    def net(self, letter: str) -> float:
        """The part of the difference that problems with this outcome, before or after, account for.

        Over the letters other than ``R`` the parts add up to the difference.
        """
        return (self.gained[letter] - self.lost[letter]) / self.n


def explain_change(before: str, after: str, *, lenient: bool = False) -> Change:
    """Take the difference of two accuracies apart, by what the problems were, or became, that changed sides.

    Args:
        before, after: outcomes (``outcome_letters``) on the same problems in the same order.
        lenient: the accuracy is the lenient one: ``F`` counts as right.

    Raises:
        DataError: different numbers of problems, or none.

    >>> change = explain_change("RRRRFW", "RRCWRW")
    >>> print(change.difference.value, change.gained, change.lost)
    -0.16666666666666666 {'F': 1, 'C': 0, 'W': 0} {'F': 0, 'C': 1, 'W': 1}
    >>> [round(change.net(letter), 3) for letter in "FCW"]
    [0.167, -0.167, -0.167]
    """
    if len(before) != len(after):
        raise DataError(
            f"{len(before)} and {len(after)} outcomes", "give those of the same problems, in the same order"
        )
    right = "RF" if lenient else "R"
    others = [letter for letter in OUTCOMES if letter not in right]
    pairs = list(zip(before, after, strict=True))
    return Change(
        n=len(pairs),
        difference=paired_difference_interval(rights(before, lenient), rights(after, lenient)),
        gained={letter: sum(a == letter and b in right for a, b in pairs) for letter in others},
        lost={letter: sum(a in right and b == letter for a, b in pairs) for letter in others},
    )
