"""95 % confidence intervals: of a rate, of a mean over seeds, and of differences.

Two runs on the same problems are compared with `paired_difference_interval`. It is much narrower than two separate
intervals suggest, because problems that are easy (or hard) for both runs cancel out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, variance

from cs336_sft.errors import DataError

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson_interval(successes: float, n: float) -> Interval:
    """Compute the interval of a rate, `successes` out of `n` independent trials.

    It stays in [0, 1] and has a width at 0 and 1. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22 (1927). Raises DataError: no trial, or successes outside 0..n.

    >>> print(wilson_interval(154, 256))
    0.602 [0.541, 0.660]
    """
    if n <= 0:
        raise DataError("a rate of no trials at all", "evaluate at least one problem")
    if not 0 <= successes <= n:
        raise DataError(f"{successes} successes in {n} trials", "give 0 <= successes <= n")
    return _wilson(successes / n, n)


def _wilson(rate: float, n: float) -> Interval:
    z = _Z
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At rates 0 and 1 one end is exactly the rate; rounding must not leave it just outside.
    return Interval(rate, min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half)))


def clustered_rate_interval(groups: Iterable[Sequence[float]]) -> Interval:
    """Compute the interval of a rate where each problem was tried several times.

    `groups` has each problem's outcomes, 0..1. Tries of one problem resemble each other: from the spread between
    problems follows the number of independent trials that would give the same standard error, and Wilson's interval
    is that of this number. Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24 (1998).

    >>> print(clustered_rate_interval([[1, 1], [0, 0]] * 50))  # the second try says nothing new: as 100 trials
    0.500 [0.404, 0.596]
    """
    groups = [list(group) for group in groups]
    if not groups or not all(groups):
        raise DataError("a rate of no trials at all", "evaluate at least one problem, with at least one sample each")
    means = [fmean(group) for group in groups]
    rate = min(1.0, fmean(means))
    total = sum(map(len, groups))
    effective = float(len(groups))  # the cautious end: the further tries of a problem count for nothing
    if total > len(groups) and 0 < rate < 1:
        spread = variance(means) / len(groups) if len(groups) > 1 else math.inf
        effective = min(float(total), max(effective, rate * (1 - rate) / spread if spread > 0 else math.inf))
    return _wilson(rate, effective)


def mean_interval(values: Sequence[float]) -> Interval:
    """Compute the interval of a mean by Student's t (Biometrika 6, 1908).

    For a few values that scatter like a bell curve, such as one accuracy a seed. Raises DataError: fewer than two.

    >>> print(mean_interval([0.60, 0.62, 0.64]))
    0.620 [0.570, 0.670]
    """
    if len(values) < 2:
        raise DataError(f"an interval of {len(values)} value(s)", "give at least 2, such as one for each of 3 seeds")
    mean = fmean(values)
    half = student_t_quantile(CONFIDENCE, len(values) - 1) * math.sqrt(variance(values) / len(values))
    return Interval(mean, mean - half, mean + half)


def paired_difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Compute the interval of `mean(second) - mean(first)` on the same problems.

    Outcomes are 0..1; with several samples a problem, give their mean. Agresti and Min, "Simple improved confidence
    intervals for comparing matched proportions", Statistics in Medicine 24 (2005).
    Raises DataError: nothing to compare, or different numbers of problems.

    >>> print(paired_difference_interval([1, 0, 0, 1] * 25, [1, 1, 0, 1] * 25))
    0.250 [0.159, 0.331]
    """
    if not first or len(first) != len(second):
        problem = f"a paired difference of {len(first)} and {len(second)} outcomes"
        raise DataError(problem, "give one outcome for each problem, for the same problems in the same order")
    differences = [b - a for a, b in zip(first, second, strict=True)]
    # Half an observation each of +1 and -1, and two halves of 0: two observations more, 1 more in the sum of squares.
    n, value = len(differences) + 2, fmean(differences)
    centre = math.fsum(differences) / n
    half = _Z * math.sqrt(((math.fsum(d * d for d in differences) + 1) / n - centre * centre) / n)
    return Interval(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def difference_interval(first: Interval, second: Interval) -> Interval:
    """Compute the interval of `second - first` of two independent Wilson intervals.

    Newcombe, "Interval estimation for the difference between independent proportions", Stat. in Medicine 17 (1998).

    >>> print(difference_interval(wilson_interval(48, 80), wilson_interval(56, 70)))  # the paper's example
    0.200 [0.052, 0.334]
    """
    value = second.value - first.value
    low = value - math.hypot(second.value - second.low, first.high - first.value)
    return Interval(value, low, value + math.hypot(second.high - second.value, first.value - first.low))


@lru_cache(maxsize=128)
def student_t_quantile(confidence: float, degrees: int) -> float:
    """Find the t with `P(|T| <= t) = confidence`, by bisection.

    Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.3 and 26.7.4.

    >>> print(f"{student_t_quantile(0.95, 2):.3f} {student_t_quantile(0.95, 255):.3f}")
    4.303 1.969
    """
    low, high = 0.0, 1.0
    while _student_t_central(high, degrees) < confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_t_central(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def _student_t_central(t: float, degrees: int) -> float:
    """Compute `P(|T| <= t)` as a finite sum of powers of a cosine."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2 == 1
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(1 if odd else 0, degrees - 1, 2):  # k is the power of the cosine
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
