"""Choosing the best of several models by an evaluation: how often would other problems choose another one?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cs336_sft.errors import DataError


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
