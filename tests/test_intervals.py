"""Intervals: textbook values, coverage by simulation, and what happens at the ends."""

from __future__ import annotations

import math
import random
from statistics import NormalDist, fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import (
    clustered_rate_interval,
    mean_interval,
    paired_difference_interval,
    student_t_quantile,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_solve_the_score_equation(case: tuple[int, int]) -> None:
    """The definition: at each end the rate lies z standard errors (of that end) away."""
    successes, n = case
    interval = wilson_interval(successes, n)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    z = NormalDist().inv_cdf(0.975)
    for end in (interval.low, interval.high):
        if end not in (0.0, 1.0):
            assert abs(interval.value - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n), rel=1e-6)


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.6, 0.95])
def test_wilson_covers_the_true_rate(rate: float) -> None:
    """Exact: the binomial probability of all counts whose interval holds the rate."""
    n, covered = 256, 0.0
    for k in range(n + 1):
        interval = wilson_interval(k, n)
        if interval.low <= rate <= interval.high:
            covered += math.comb(n, k) * rate**k * (1 - rate) ** (n - k)
    assert 0.93 < covered < 0.98


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40))
def test_one_sample_a_problem_is_plain_wilson(outcomes: list[float]) -> None:
    assert clustered_rate_interval([[x] for x in outcomes]) == wilson_interval(sum(outcomes), len(outcomes))


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=4), min_size=2, max_size=30))
def test_clustered_lies_between_problems_and_trials(groups: list[list[float]]) -> None:
    interval = clustered_rate_interval(groups)
    rate = fmean(map(fmean, groups))
    assert interval.value == pytest.approx(rate)
    width = interval.high - interval.low
    widest = wilson_interval(min(1, rate) * len(groups), len(groups))
    total = sum(map(len, groups))
    narrowest = wilson_interval(min(1, rate) * total, total)
    assert narrowest.high - narrowest.low - 1e-9 <= width <= widest.high - widest.low + 1e-9


def test_clustered_covers_where_independence_does_not() -> None:
    """Problems are easy or hard: of 100 problems x 8 tries, treating the 800 as independent misses far too often."""
    rng = random.Random(0)
    clustered = independent = 0
    for _ in range(400):
        groups = []
        for _ in range(100):
            p = rng.choice([0.1, 0.9])
            groups.append([float(rng.random() < p) for _ in range(8)])
        wide = clustered_rate_interval(groups)
        narrow = wilson_interval(sum(map(sum, groups)), 800)
        clustered += wide.low <= 0.5 <= wide.high
        independent += narrow.low <= 0.5 <= narrow.high
    assert 0.92 < clustered / 400 < 0.98
    assert independent / 400 < 0.80


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799), (100_000, 1.9600)],
)
def test_t_quantile_equals_the_table(degrees: int, expected: float) -> None:
    assert student_t_quantile(0.95, degrees) == pytest.approx(expected, abs=1e-4)


def test_mean_interval_by_hand() -> None:
    interval = mean_interval([1.0, 2.0, 4.0])
    half = 4.302653 * math.sqrt(7 / 3 / 3)
    assert interval.value == pytest.approx(7 / 3)
    assert (interval.low, interval.high) == pytest.approx((7 / 3 - half, 7 / 3 + half), rel=1e-6)


def test_paired_difference_by_hand() -> None:
    """8 problems gained, 3 lost, 89 unchanged: cells 8.5, 3.5 and 90 of 102."""
    before = [0.0] * 8 + [1.0] * 3 + [1.0] * 50 + [0.0] * 39
    after = [1.0] * 8 + [0.0] * 3 + [1.0] * 50 + [0.0] * 39
    interval = paired_difference_interval(before, after)
    centre = (8.5 - 3.5) / 102
    half = 1.959964 * math.sqrt(((8.5 + 3.5) / 102 - centre**2) / 102)
    assert interval.value == pytest.approx(0.05)
    assert (interval.low, interval.high) == pytest.approx((centre - half, centre + half), rel=1e-6)
    back = paired_difference_interval(after, before)
    assert (back.low, back.high) == pytest.approx((-interval.high, -interval.low))


def test_paired_difference_of_equal_runs_has_a_width() -> None:
    interval = paired_difference_interval([1.0] * 256, [1.0] * 256)
    assert interval.value == 0 and 0 < interval.high < 0.02 and -0.02 < interval.low < 0


def test_pairing_narrows() -> None:
    rng = random.Random(1)
    before = [float(rng.random() < 0.6) for _ in range(256)]
    after = [x if rng.random() < 0.9 else 1 - x for x in before]
    paired = paired_difference_interval(before, after)
    apart = wilson_interval(sum(before), 256)
    assert paired.high - paired.low < apart.high - apart.low


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(3, 2),
        lambda: clustered_rate_interval([]),
        lambda: clustered_rate_interval([[1.0], []]),
        lambda: mean_interval([1.0]),
        lambda: paired_difference_interval([], []),
        lambda: paired_difference_interval([1.0], [1.0, 0.0]),
    ],
)
def test_nothing_to_measure_is_an_error(call) -> None:
    with pytest.raises(DataError, match="Remedy"):
        call()
