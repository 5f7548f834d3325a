"""Choosing the best of several models or steps by an evaluation: would other problems have chosen another?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from cs336_sft.errors import DataError
from cs336_sft.evaluation.outcomes import decompose_change, is_correct


def win_rate(outcomes: Mapping[str, Sequence[float]], n: int, *, draws: int = 2000, seed: int = 0) -> dict[str, float]:
    """Estimate how often each candidate would be best on `n` such problems.

    Candidates have one outcome (0..1) a problem. The problems are drawn with replacement, the same for all candidates;
    the highest mean wins, and ties share the win. Efron and Tibshirani, "An Introduction to the Bootstrap" (1993).

    >>> win_rate({"a": [1, 0, 1], "b": [1, 0, 1], "never": [0, 0, 0]}, n=800)
    {'a': 0.5, 'b': 0.5, 'never': 0.0}
    """
    means = _resampled_means(outcomes, n, draws, seed)  # [draws, candidates]
    best = np.isclose(means, means.max(axis=1, keepdims=True), rtol=0, atol=1e-9)
    wins = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return {name: float(share) for name, share in zip(outcomes, wins, strict=True)}


def selection_bias(outcomes: Mapping[str, Sequence[float]], n: int, *, draws: int = 2000, seed: int = 0) -> float:
    """Estimate how much too high the winner's own number is, on average.

    It is the winner's mean in the draw minus its mean over all problems.

    """
    means = _resampled_means(outcomes, n, draws, seed)
    truth = np.array([np.mean(values) for values in outcomes.values()])
    return float((means.max(axis=1) - truth[means.argmax(axis=1)]).mean())


@dataclass(frozen=True)
class Fall:
    """The difference between a run's highest evaluation and its last."""

    peak: int  # step of the highest accuracy on all problems; of equal ones the earliest
    seen: float  # last accuracy minus the highest, as read off the curve; at most 0
    measured: float  # the same, with the peak chosen on other problems than those it is measured on
    parts: dict[str, float]  # outcome -> its part of `measured`; they add up to it

    @property
    def selection_bias(self) -> float:
        return self.seen - self.measured


def fall_from_peak(evaluations: Mapping[int, str], *, lenient: bool = False) -> Fall:
    """Measure how far accuracy fell from its peak, without the peak's selection bias.

    The problems are halved. The peak is chosen on one half and the fall measured on the other, then the other way
    around (cross-fitting). `evaluations`: step -> `outcome_letters` of the same problems, at least two.

    >>> lucky = fall_from_peak({8: "RW", 16: "WR", 32: "WW"})  # the peak of one problem is none of the other
    >>> lucky.seen, lucky.measured, lucky.selection_bias
    (-0.5, 0.0, -0.5)
    """
    sizes = {len(letters) for letters in evaluations.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        raise DataError(f"evaluations of {sorted(sizes)} problems", "give the same problems for each, at least two")
    steps = sorted(evaluations)

    def highest(start: int, stride: int) -> int:
        means = {step: fmean(is_correct(evaluations[step][start::stride], lenient)) for step in steps}
        return max(steps, key=lambda step: (means[step], -step))

    peak, end = highest(0, 1), evaluations[steps[-1]]
    seen = decompose_change(evaluations[peak], end, lenient=lenient).difference.value
    changes = [
        decompose_change(evaluations[highest(1 - half, 2)][half::2], end[half::2], lenient=lenient) for half in (0, 1)
    ]
    letters = changes[0].gained
    # Weighted by problems: with an odd number of them one half is larger.
    total = sum(change.n for change in changes)
    parts = {letter: sum(change.net(letter) * change.n for change in changes) / total for letter in letters}
    measured = sum(change.difference.value * change.n for change in changes) / total
    return Fall(peak, seen, measured, parts)


def _resampled_means(outcomes: Mapping[str, Sequence[float]], n: int, draws: int, seed: int) -> np.ndarray:
    sizes = {len(values) for values in outcomes.values()}
    if len(sizes) != 1 or 0 in sizes or n < 1:
        problem = f"candidates with {sorted(sizes)} outcomes, {n} to draw"
        raise DataError(problem, "give the same problems for each, at least one")
    table = np.array(list(outcomes.values()), dtype=float)  # [candidates, problems]
    size = table.shape[1]
    # A sample with replacement is how often each problem was drawn.
    counts = np.random.default_rng(seed).multinomial(n, np.full(size, 1 / size), size=draws)  # [draws, problems]
    return counts @ table.T / n
