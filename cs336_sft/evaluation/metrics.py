"""Graded generations in, the numbers of a run out. One definition of each metric for all lessons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from statistics import fmean

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import clustered_rate_interval
from cs336_sft.records import Graded


@dataclass(frozen=True)
class Metrics:
    """What an evaluation measured. Rates are fractions 0..1, each with a 95 % interval (``_low``, ``_high``).

    Attributes:
        n: generations.
        n_problems: problems; with ``n`` samples of each, rates average over problems, and the intervals allow for
            the likeness of a problem's samples (`intervals.clustered_rate_interval`).
        accuracy: mean ``reward``: the demanded format is there, and the answer in it is right.
        accuracy_lenient: mean ``lenient``: any readable final answer is right.
        format_accuracy: mean ``format_reward``.
        trunc_rate: share of generations that the limit ended (``finish_reason == "length"``).
        avg_gen_len: mean number of generated tokens, the end-of-text token included.
        avg_gen_len_correct: the same over generations with ``reward`` above 0; None where there are none.
        avg_gen_len_wrong: the same over the others; None where there are none.
        entropy: mean entropy in nats of the next-token distributions (temperature 1) over all generated tokens of
            all generations; None where the sampler recorded none.
    """

    n: int
    n_problems: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    accuracy_lenient: float
    accuracy_lenient_low: float
    accuracy_lenient_high: float
    format_accuracy: float
    format_accuracy_low: float
    format_accuracy_high: float
    trunc_rate: float
    trunc_rate_low: float
    trunc_rate_high: float
    avg_gen_len: float
    avg_gen_len_correct: float | None
    avg_gen_len_wrong: float | None
    entropy: float | None

    def as_dict(self) -> dict[str, float | int | None]:
        """Flat, in the order above. A missing number is None, which JSON writes as ``null`` (NaN is not JSON)."""
        return asdict(self)


def compute_metrics(graded: Sequence[Graded]) -> Metrics:
    """The metrics of graded generations. Samples of one problem are recognised by its id (or question, without one).

    Raises:
        DataError: there is nothing to average.

    >>> from cs336_sft.records import Generation, Problem
    >>> problem = Problem("2 + 3?", "#### 5", "5")
    >>> generation = Generation(prompt="2 + 3?", token_ids=(5, 0), text=" 5", finish_reason="stop")
    >>> metrics = compute_metrics([Graded(problem, generation, 0.0, 0.0, 0.0, lenient=1.0)])
    >>> metrics.accuracy, metrics.accuracy_lenient, metrics.trunc_rate, metrics.avg_gen_len
    (0.0, 1.0, 0.0, 2.0)
    >>> metrics.avg_gen_len_correct is None  # none is correct
    True
    """
    if not graded:
        raise DataError("there are no graded generations", "evaluate at least one problem")
    groups: dict[str, list[Graded]] = {}
    for item in graded:
        groups.setdefault(item.problem.id or item.problem.question, []).append(item)

    rates: dict[str, float] = {}
    outcomes: dict[str, Callable[[Graded], float]] = {
        "accuracy": lambda item: item.reward,
        "accuracy_lenient": lambda item: item.lenient,
        "format_accuracy": lambda item: item.format_reward,
        "trunc_rate": lambda item: float(item.generation.finish_reason == "length"),
    }
    for name, outcome in outcomes.items():
        interval = clustered_rate_interval([outcome(item) for item in group] for group in groups.values())
        rates |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}

    return Metrics(
        n=len(graded),
        n_problems=len(groups),
        **rates,
        avg_gen_len=_mean_length(graded) or 0.0,
        avg_gen_len_correct=_mean_length([item for item in graded if item.reward > 0]),
        avg_gen_len_wrong=_mean_length([item for item in graded if item.reward <= 0]),
        entropy=mean_token_entropy(graded),
    )


def mean_token_entropy(graded: Sequence[Graded]) -> float | None:
    """Mean over tokens (not over generations) in nats; None unless every generation has its entropies."""
    recorded = [item.generation.entropies for item in graded]
    tokens = sum(len(entropies) for entropies in recorded if entropies is not None)
    if tokens == 0 or any(entropies is None for entropies in recorded):
        return None
    return fsum(fsum(entropies) for entropies in recorded if entropies is not None) / tokens


def _mean_length(graded: Sequence[Graded]) -> float | None:
    return fmean(len(item.generation.token_ids) for item in graded) if graded else None
