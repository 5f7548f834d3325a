"""What became of each problem."""

from __future__ import annotations

import pytest

from cs336_sft.evaluation.outcomes import is_correct, outcome, outcome_letters
from cs336_sft.records import Generation, Graded, Problem


def graded(reward: float, lenient: float, finish: str = "stop") -> Graded:
    generation = Generation("Q", (5, 6), " 5", finish)
    return Graded(Problem("2 + 3?", "#### 5", "5", id="a"), generation, reward, reward, reward, lenient)


@pytest.mark.parametrize(
    ("reward", "lenient", "finish", "letter"),
    [
        (1.0, 1.0, "stop", "R"),
        (1.0, 1.0, "length", "R"),  # the answer was out before the limit
        (0.0, 1.0, "length", "F"),
        (0.0, 1.0, "stop", "F"),
        (0.0, 0.0, "length", "C"),
        (0.0, 0.0, "stop", "W"),
    ],
)
def test_the_four_outcomes(reward, lenient, finish, letter) -> None:
    assert outcome(graded(reward, lenient, finish)) == letter


def test_the_outcomes_of_an_evaluation_keep_their_order() -> None:
    items = [graded(1.0, 1.0), graded(0.0, 0.0, "length")]
    assert (outcome_letters(items), outcome_letters(items[::-1])) == ("RC", "CR")


def test_only_a_lenient_reading_counts_an_answer_out_of_the_format() -> None:
    assert (is_correct("RFCW"), is_correct("RFCW", lenient=True)) == ([1, 0, 0, 0], [1, 1, 0, 0])
