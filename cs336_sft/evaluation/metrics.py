"""Metrics of graded generations: one definition of each for all lessons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import fsum
from statistics import fmean

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import clustered_rate_interval
from cs336_sft.records import Graded


@dataclass(frozen=True)
class Metrics:
    """The numbers of an evaluation. Rates are fractions 0..1, each with a 95 % interval (`_low`, `_high`)."""

    n: int  # generations
    n_problems: int  # rates average over problems, see `clustered_rate_interval`
    accuracy: float  # mean `reward`: the demanded format is there, and the answer in it is right
    accuracy_low: float
    accuracy_high: float
    accuracy_lenient: float  # mean `lenient`: any readable final answer is right
    accuracy_lenient_low: float
    accuracy_lenient_high: float
    format_accuracy: float  # mean `format_reward`
    format_accuracy_low: float
    format_accuracy_high: float
    trunc_rate: float  # fraction of generations that `max_new_tokens` cut off
    trunc_rate_low: float
    trunc_rate_high: float
    avg_gen_len: float  # generated tokens, the end-of-text token included
    avg_gen_len_correct: float | None  # over generations with `reward` above 0; None if there are none
    avg_gen_len_wrong: float | None  # over the others
    entropy: float | None  # nats at temperature 1, over all generated tokens; None if not recorded

    def as_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


def compute_metrics(graded: Sequence[Graded]) -> Metrics:
    """Compute the metrics of graded generations.

    Samples with the same problem id (or question, without one) belong to one problem.
    Raises DataError: there is nothing to average.

    >>> from cs336_sft.records import Generation, Problem
    >>> problem = Problem("2 + 3?", "#### 5", "5")
    >>> generation = Generation(prompt="2 + 3?", token_ids=(5, 0), text=" 5", finish_reason="stop")
    >>> metrics = compute_metrics([Graded(problem, generation, 0.0, 0.0, 0.0, lenient=1.0)])
    >>> metrics.accuracy, metrics.accuracy_lenient, metrics.avg_gen_len
    (0.0, 1.0, 2.0)
    """
    if not graded:
        raise DataError("there are no graded generations", "evaluate at least one problem")
    groups: dict[str, list[Graded]] = {}
    for item in graded:
        groups.setdefault(item.problem.id or item.problem.question, []).append(item)

    rates: dict[str, float] = {}
    outcomes = {
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
    """Average over all tokens, in nats, or return None if entropies are missing."""
    recorded = [item.generation.entropies for item in graded]
    if None in recorded or not any(recorded):
        return None
    return fsum(map(fsum, recorded)) / sum(map(len, recorded))


def _mean_length(graded: Sequence[Graded]) -> float | None:
    return fmean(len(item.generation.token_ids) for item in graded) if graded else None
