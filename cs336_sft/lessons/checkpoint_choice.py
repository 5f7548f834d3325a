"""Choosing the best of several models, or steps, by an evaluation: would other problems have chosen another one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from cs336_sft.errors import DataError
from cs336_sft.evaluation.outcomes import explain_change, rights


def share_of_wins(
    outcomes: Mapping[str, Sequence[float]], n: int, *, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How often each candidate would come out best if the evaluation had ``n`` problems of this kind.

    The bootstrap: problems are drawn with replacement from those that were measured, the same for all candidates, and
    the highest mean wins; candidates that tie share the win. If one candidate always wins, ``n`` problems are enough to
    choose it; if the wins are spread, the choice is a lottery.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 6.

    Args:
        outcomes: candidate -> one outcome (0..1) for each problem, on the same problems in the same order.

    Raises:
        DataError: no candidate, no problem, or different numbers of problems.

    >>> share_of_wins({"always": [1, 1, 1, 1], "never": [0, 0, 0, 0]}, n=8)
    {'always': 1.0, 'never': 0.0}
    >>> share_of_wins({"a": [1, 0, 1], "b": [1, 0, 1]}, n=8)
    {'a': 0.5, 'b': 0.5}
    """
    means = _resampled_means(outcomes, n, draws, seed)  # [draws, candidates]
    best = np.isclose(means, means.max(axis=1, keepdims=True), rtol=0, atol=1e-9)
    wins = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)
    return {name: float(share) for name, share in zip(outcomes, wins, strict=True)}


def winners_bonus(outcomes: Mapping[str, Sequence[float]], n: int, *, draws: int = 2000, seed: int = 0) -> float:
    """How much too high the winner's own number is, on average: its mean in the draw minus its mean over all problems.

    The highest of several noisy numbers was chosen for its luck too. That is why a checkpoint chosen on validation is
    reported on test.

    Raises:
        DataError: see ``share_of_wins``.

    >>> winners_bonus({"a": [1, 1, 1], "b": [0, 0, 0]}, n=4)
    0.0
    >>> winners_bonus({"a": [1, 0] * 50, "b": [0, 1] * 50}, n=16) > 0.05
    True
    """
    means = _resampled_means(outcomes, n, draws, seed)
    truth = np.array([np.mean(values) for values in outcomes.values()])
    return float((means.max(axis=1) - truth[means.argmax(axis=1)]).mean())


@dataclass(frozen=True)
class Fall:
    """From the highest evaluation of a run to its last, taken apart; see ``fall_from_peak``.

    Attributes:
        peak: step of the highest accuracy on all problems; of equal ones the earliest.
        seen: what one reads off the curve: last accuracy minus highest; at most 0.
        measured: the same with the peak chosen on other problems than those on which the fall is measured.
        parts: outcome (``outcomes.OUTCOMES``, without right) -> its part of ``measured``; they add up to it.
    """

    peak: int
    seen: float
    measured: float
    parts: dict[str, float]

    @property
    def luck(self) -> float:
        """The part of ``seen`` that was there because the highest of several noisy numbers was taken."""
        return self.seen - self.measured


def fall_from_peak(evaluations: Mapping[int, str], *, lenient: bool = False) -> Fall:
    """How far a run's accuracy fell from its peak, without the luck of the peak, and through which outcomes.

    The problems are halved, every other one. The peak is chosen on one half and the fall measured on the other, then
    the other way around (cross-fitting): what was picked for being high is not measured by what picked it.

    Args:
        evaluations: step -> outcomes (``outcomes.outcome_letters``) of the same problems in the same order.
        lenient: the accuracy is the lenient one: ``F`` counts as right.

    Raises:
        DataError: no evaluation, fewer than two problems, or different numbers of them.

    >>> fall = fall_from_peak({8: "RRRRRW", 16: "RWRRRW", 32: "RWRCRW"})
    >>> fall.peak, round(fall.seen, 3), {letter: round(part, 3) for letter, part in fall.parts.items()}
    (8, -0.333, {'F': 0.0, 'C': -0.167, 'W': -0.167})
    >>> lucky = fall_from_peak({8: "RW", 16: "WR", 32: "WW"})  # the peak of one problem is none of the other
    >>> lucky.seen, lucky.measured, lucky.luck
    (-0.5, 0.0, -0.5)
    """
    sizes = {len(letters) for letters in evaluations.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        raise DataError(f"evaluations of {sorted(sizes)} problems", "give the same problems for each, at least two")
    steps = sorted(evaluations)

    def highest(start: int, stride: int) -> int:
        means = {step: fmean(rights(evaluations[step][start::stride], lenient)) for step in steps}
        return max(steps, key=lambda step: (means[step], -step))

    peak, end = highest(0, 1), evaluations[steps[-1]]
    seen = explain_change(evaluations[peak], end, lenient=lenient).difference.value
    changes = [
        explain_change(evaluations[highest(1 - half, 2)][half::2], end[half::2], lenient=lenient) for half in (0, 1)
    ]
    letters = changes[0].gained
    # Weighted by problems: with an odd number of them one half is larger.
    total = sum(change.n for change in changes)
    parts = {letter: sum(change.net(letter) * change.n for change in changes) / total for letter in letters}
    measured = sum(change.difference.value * change.n for change in changes) / total
    return Fall(peak, seen, measured, parts)


def _resampled_means(outcomes: Mapping[str, Sequence[float]], n: int, draws: int, seed: int) -> np.ndarray:
    """Mean outcomes of each candidate on each drawn sample, ``[draws, candidates]``."""
    sizes = {len(values) for values in outcomes.values()}
    if len(sizes) != 1 or 0 in sizes or n < 1:
        raise DataError(
            f"candidates with {sorted(sizes)} outcomes, {n} to draw", "give the same problems for each, at least one"
        )
    table = np.array(list(outcomes.values()), dtype=float)  # [candidates, problems]
    size = table.shape[1]
    # A sample with replacement is how often each problem was drawn.
    counts = np.random.default_rng(seed).multinomial(n, np.full(size, 1 / size), size=draws)  # [draws, problems]
    return counts @ table.T / n
