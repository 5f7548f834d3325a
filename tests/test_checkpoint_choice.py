"""How often another sample of problems would choose another model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cs336_sft.errors import DataError
from cs336_sft.lessons.checkpoint_choice import fall_from_peak, selection_bias, win_rate


def exact_wins(outcomes: dict[str, list[float]], n: int) -> dict[str, float]:
    """All samples of n problems, one by one."""
    size = len(next(iter(outcomes.values())))
    wins = dict.fromkeys(outcomes, 0.0)
    samples = list(itertools.product(range(size), repeat=n))
    for sample in samples:
        sums = {name: sum(values[i] for i in sample) for name, values in outcomes.items()}
        best = [name for name, total in sums.items() if total == max(sums.values())]
        for name in best:
            wins[name] += 1 / len(best) / len(samples)
    return wins


def test_the_win_rate_is_that_of_all_samples() -> None:
    outcomes = {"a": [1, 1, 0, 0], "b": [1, 0, 1, 0], "c": [0, 0, 0, 1]}
    exact = exact_wins(outcomes, 3)
    drawn = win_rate(outcomes, 3, draws=40_000)
    assert sum(drawn.values()) == pytest.approx(1.0)
    for name in outcomes:
        assert drawn[name] == pytest.approx(exact[name], abs=0.012)


def test_problems_are_drawn_together_for_all_candidates() -> None:
    # "b" is right wherever "a" is and once more: on the same problems it can never lose.
    outcomes = {"a": [1, 0, 0] * 10, "b": [1, 0, 0] * 9 + [1, 1, 0]}
    wins = win_rate(outcomes, 30, draws=500)
    assert wins["b"] > wins["a"] and selection_bias(outcomes, 30, draws=500) >= -0.02


def test_more_problems_settle_the_choice_and_shrink_the_bonus() -> None:
    rng = np.random.default_rng(1)
    outcomes = {"a": (rng.random(600) < 0.60).astype(float), "b": (rng.random(600) < 0.70).astype(float)}
    few, many = (win_rate(outcomes, n, draws=1000)["b"] for n in (16, 1024))
    assert few < many and many > 0.95
    assert selection_bias(outcomes, 16, draws=1000) > selection_bias(outcomes, 1024, draws=1000)


def test_the_seed_fixes_the_draws() -> None:
    outcomes = {"a": [1, 0, 1, 0, 0], "b": [0, 1, 0, 1, 1]}
    assert win_rate(outcomes, 7, seed=3) == win_rate(outcomes, 7, seed=3)
    assert win_rate(outcomes, 7, seed=3) != win_rate(outcomes, 7, seed=4)


@pytest.mark.parametrize("outcomes", [{}, {"a": []}, {"a": [1.0], "b": [1.0, 0.0]}])
def test_nothing_to_choose_from_is_an_error(outcomes) -> None:
    with pytest.raises(DataError):
        win_rate(outcomes, 4)


def random_curves(rng: np.random.Generator, chances: list[float], n: int = 200) -> dict[int, str]:
    """Independent outcomes at each step, right with these chances."""
    return {step: "".join(np.where(rng.random(n) < p, "R", "W")) for step, p in enumerate(chances, start=1)}


def test_a_peak_of_pure_luck_falls_only_where_it_was_chosen() -> None:
    rng = np.random.default_rng(0)
    falls = [fall_from_peak(random_curves(rng, [0.6] * 8)) for _ in range(400)]
    assert np.mean([fall.seen for fall in falls]) < -0.03
    assert np.mean([fall.measured for fall in falls]) == pytest.approx(0.0, abs=0.006)


def test_a_fall_that_is_there_is_measured() -> None:
    rng = np.random.default_rng(1)
    falls = [fall_from_peak(random_curves(rng, [0.3, 0.8, 0.6])) for _ in range(400)]
    assert np.mean([fall.measured for fall in falls]) == pytest.approx(-0.2, abs=0.008)
    assert {fall.peak for fall in falls} == {2}


def test_the_parts_of_a_fall_add_up() -> None:
    rng = np.random.default_rng(2)
    for lenient in (False, True):
        for n in (2, 7, 50):
            run = {step: "".join(rng.choice(list("RRFCW"), n)) for step in (4, 8, 16)}
            fall = fall_from_peak(run, lenient=lenient)
            assert sum(fall.parts.values()) == pytest.approx(fall.measured)
            assert fall.seen == pytest.approx(fall.measured + fall.selection_bias) and fall.seen <= 0
            assert set(fall.parts) == set("CW" if lenient else "FCW")


def test_the_earliest_of_equal_peaks_counts_and_the_halves_do_not_see_each_other() -> None:
    assert fall_from_peak({1: "RW", 2: "WR", 3: "WW"}).peak == 1
    # Problem 0 is right at step 1 only, problem 1 at step 2 only: each chooses the other's bad step, so neither falls.
    fall = fall_from_peak({1: "RW", 2: "WR", 3: "WW"})
    assert (fall.seen, fall.measured, fall.selection_bias) == (-0.5, 0.0, -0.5)


@pytest.mark.parametrize("evaluations", [{}, {1: "R"}, {1: "RR", 2: "R"}, {1: "RW", 2: "RRR"}])
def test_what_can_not_be_compared_is_refused(evaluations) -> None:
    with pytest.raises(DataError):
        fall_from_peak(evaluations)
