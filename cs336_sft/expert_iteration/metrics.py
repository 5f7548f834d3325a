"""What is logged of a round of expert iteration: of its rollouts, and of what was kept of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from cs336_sft.data.calculator_annotations import check_annotations
from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.intervals import wilson_interval
from cs336_sft.evaluation.metrics import compute_metrics, mean_token_entropy
from cs336_sft.expert_iteration.selection import question_key
from cs336_sft.records import Graded
from cs336_sft.utils.files import Record


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased estimate of the probability that of ``k`` samples at least one is correct, from ``n`` samples.

    ``1 - C(n - correct, k) / C(n, k)``: of all ways to pick ``k`` of the ``n`` samples, the share with a correct one
    (Chen et al., "Evaluating Large Language Models Trained on Code", 2021, equation 1). The plain
    ``1 - (1 - correct / n) ** k`` is too low.

    Raises:
        ConfigError: not ``0 <= correct <= n`` and ``1 <= k <= n``.

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 1, 4)
    (0.25, 0.5, 1.0)
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ConfigError(f"pass@{k} from {correct} correct of {n} samples", "give 0 <= correct <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def rollout_metrics(graded: Sequence[Graded]) -> Record:
    """Flat metrics of a round's rollouts; rates are fractions 0..1, lengths are in tokens.

    ``n``, ``n_questions``; ``pass_rate`` (mean reward) with its interval; ``lenient_rate``, ``format_rate``,
    ``trunc_rate``; ``coverage``, the share of questions with at least one correct sample, with its interval;
    ``pass_at_1``, ``_2``, ``_4``, ... up to the samples of a question; ``distinct`` and ``distinct_correct``, the mean
    number of different texts of a question, of all and of the correct samples; ``entropy`` (nats a token, at
    temperature 1); ``length``, ``length_correct``, ``length_wrong``. What does not exist is None.

    Raises:
        DataError: there are no rollouts.

    >>> from cs336_sft.records import Generation, Problem
    >>> problem = Problem("2 + 3?", "#### 5", "5", id="a")
    >>> graded = [
    ...     Graded(problem, Generation("", (1,) * (3 + i), f"#### {i}", "stop", sample=i), 1.0, i == 5, i == 5, i == 5)
    ...     for i in (4, 5)
    ... ]
    >>> metrics = rollout_metrics(graded)
    >>> [metrics[name] for name in ("pass_rate", "coverage", "pass_at_1", "pass_at_2", "distinct", "length_wrong")]
    [0.5, 1.0, 0.5, 1.0, 2.0, 7.0]
    """
    if not graded:
        raise DataError("there are no rollouts", "sample at least one question")
    groups: dict[str, list[Graded]] = {}
    for item in graded:
        groups.setdefault(question_key(item), []).append(item)
    samples = min(map(len, groups.values()))
    right = [(len(group), sum(item.reward > 0 for item in group)) for group in groups.values()]
    covered = wilson_interval(sum(correct > 0 for _, correct in right), len(right))
    metrics = compute_metrics(graded)
    return {
        "n": len(graded),
        "n_questions": len(groups),
        "pass_rate": metrics.accuracy,
        "pass_rate_low": metrics.accuracy_low,
        "pass_rate_high": metrics.accuracy_high,
        "lenient_rate": metrics.accuracy_lenient,
        "format_rate": metrics.format_accuracy,
        "trunc_rate": metrics.trunc_rate,
        "coverage": covered.value,
        "coverage_low": covered.low,
        "coverage_high": covered.high,
        **{f"pass_at_{k}": fmean(pass_at_k(n, correct, k) for n, correct in right) for k in _powers_of_two(samples)},
        "distinct": fmean(_distinct(group) for group in groups.values()),
        "distinct_correct": fmean(_distinct([i for i in group if i.reward > 0]) for group in groups.values()),
        "entropy": metrics.entropy,
        "length": metrics.avg_gen_len,
        "length_correct": metrics.avg_gen_len_correct,
        "length_wrong": metrics.avg_gen_len_wrong,
    }


def kept_metrics(kept: Sequence[Graded]) -> Record:
    """Flat metrics of what a round trains on (the ``reward`` in it is the honest one, whoever judged).

    ``n``, ``n_questions``; ``most_of_one_question``; ``wrong``, the share whose strict reward is 0 (let in by another
    judge, by a grader's error, or by a control without a filter); ``flawed``, the share of those with a right answer
    that hold a calculation ``<<...>>`` which is wrong or unreadable; ``no_steps``, the share without any calculation;
    ``length``, ``entropy``. What does not exist is None.

    >>> kept_metrics([])["n"]
    0
    """
    counts = Counter(map(question_key, kept))
    right = [item for item in kept if item.reward > 0 or item.lenient > 0]
    return {
        "n": len(kept),
        "n_questions": len(counts),
        "most_of_one_question": max(counts.values(), default=0),
        "wrong": _share([item.reward <= 0 for item in kept]),
        "flawed": _share([has_flawed_step(item.generation.text) for item in right]),
        "no_steps": _share([not check_annotations(item.generation.text) for item in kept]),
        "length": fmean(len(item.generation.token_ids) for item in kept) if kept else None,
        "entropy": mean_token_entropy(kept) if kept else None,
    }


def has_flawed_step(text: str) -> bool:
    """Whether a calculation ``<<48/2=24>>`` of the text is wrong or can't be read.

    A right answer after a wrong step was reached by luck, or by two mistakes that cancel out. A text without
    calculations has none that is flawed.

    >>> has_flawed_step("<<2*3=6>>6 <<6+1=7>>7\\n#### 7"), has_flawed_step("<<2*3=5>>5 <<5+2=7>>7\\n#### 7")
    (False, True)
    """
    return any(check.verdict != "right" for check in check_annotations(text))


def _powers_of_two(limit: int) -> list[int]:
    return [2**exponent for exponent in range(limit.bit_length()) if 2**exponent <= limit]


def _distinct(group: Sequence[Graded]) -> int:
    return len({item.generation.text.strip() for item in group})


def _share(outcomes: Sequence[bool]) -> float | None:
    return fmean(outcomes) if outcomes else None
