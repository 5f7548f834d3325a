"""What became of each problem, and how a difference of accuracies is made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.errors import DataError
from cs336_sft.evaluation.outcomes import decompose_change, is_correct, outcome, outcome_letters
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


letters = st.text(alphabet="RFCW", min_size=1, max_size=60)


@given(
    st.integers(1, 60).flatmap(lambda n: st.tuples(*[st.text(alphabet="RFCW", min_size=n, max_size=n)] * 2)),
    st.booleans(),
)
def test_the_parts_add_up_to_the_difference(pair, lenient) -> None:
    before, after = pair
    change = decompose_change(before, after, lenient=lenient)
    difference = (sum(is_correct(after, lenient)) - sum(is_correct(before, lenient))) / len(before)
    assert change.difference.value == pytest.approx(difference)
    assert sum(change.net(letter) for letter in change.gained) == pytest.approx(difference)
    assert set(change.gained) == set(change.lost) == (set("CW") if lenient else set("FCW"))


@given(letters)
def test_nothing_changes_against_itself(text) -> None:
    change = decompose_change(text, text)
    assert change.difference.value == 0 and not any(change.gained.values()) and not any(change.lost.values())


def test_different_problems_are_refused() -> None:
    with pytest.raises(DataError, match="2 and 3"):
        decompose_change("RR", "RRR")
