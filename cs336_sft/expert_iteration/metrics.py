"""Compute the metrics of a round: of all its rollouts, of the samples that it trains on, and of its phases."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.calculator_annotations import check_annotations
from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.intervals import wilson_interval
from cs336_sft.evaluation.metrics import compute_metrics, mean_token_entropy
from cs336_sft.evaluation.response_scores import engine_gap, score_responses
from cs336_sft.expert_iteration.rollouts import as_sampled
from cs336_sft.records import Generation, Graded
from cs336_sft.utils.files import JSONDict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rollouts that the policy scores in each round: for the engine's gap, and for entropies that the engine did not record.
_SCORED, _SCORED_FOR_ENTROPY = 16, 256


def question_key(item: Graded) -> str:
    """Identify the question of a sample by its id, or by its text."""
    return item.problem.id or item.problem.question


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Estimate the probability that of ``k`` samples at least one is correct.

    Unbiased, from ``n`` samples: ``1 - C(n - correct, k) / C(n, k)`` (Chen et al., "Evaluating Large Language Models
    Trained on Code", 2021, equation 1).

    >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 1, 4)
    (0.25, 0.5, 1.0)
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ConfigError(f"pass@{k} from {correct} correct of {n} samples", "give 0 <= correct <= n and 1 <= k <= n")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def rollout_metrics(graded: Sequence[Graded]) -> JSONDict:
    """Compute the flat metrics of a round's rollouts.

    Lengths are in tokens, ``entropy`` in nats per token; what does not exist is None. ``coverage`` is the fraction of
    questions with a correct sample, ``distinct`` the mean number of different texts per question.
    """
    if not graded:
        raise DataError("there are no rollouts", "sample at least one question")
    groups: dict[str, list[Graded]] = {}
    for item in graded:
        groups.setdefault(question_key(item), []).append(item)
    right = [(len(group), sum(item.reward > 0 for item in group)) for group in groups.values()]
    ks = [2**power for power in range(min(map(len, groups.values())).bit_length())]  # 1, 2, 4, ... up to the samples
    coverage = wilson_interval(sum(correct > 0 for _, correct in right), len(right))
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
        "coverage": coverage.value,
        "coverage_low": coverage.low,
        "coverage_high": coverage.high,
        **{f"pass_at_{k}": fmean(pass_at_k(n, correct, k) for n, correct in right) for k in ks},
        "distinct": fmean(_distinct(group) for group in groups.values()),
        "distinct_correct": fmean(_distinct([i for i in group if i.reward > 0]) for group in groups.values()),
        "entropy": metrics.entropy,
        "length": metrics.avg_gen_len,
        "length_correct": metrics.avg_gen_len_correct,
        "length_wrong": metrics.avg_gen_len_wrong,
    }


def kept_metrics(kept: Sequence[Graded]) -> JSONDict:
    """Compute the flat metrics of the samples that a round trains on.

    ``wrong`` is the fraction with strict reward 0, ``flawed`` that of right answers with a wrong or unreadable
    calculation ``<<...>>``, ``no_steps`` that without any calculation.
    """
    counts = Counter(map(question_key, kept))
    right = [item for item in kept if item.reward > 0 or item.lenient > 0]
    return {
        "n": len(kept),
        "n_questions": len(counts),
        "most_of_one_question": max(counts.values(), default=0),
        "wrong": _fraction([item.reward <= 0 for item in kept]),
        "flawed": _fraction([has_flawed_step(item.generation.text) for item in right]),
        "no_steps": _fraction([not check_annotations(item.generation.text) for item in kept]),
        "length": fmean(len(item.generation.token_ids) for item in kept) if kept else None,
        "entropy": mean_token_entropy(kept) if kept else None,
    }


def has_flawed_step(text: str) -> bool:
    """Return whether a calculation ``<<48/2=24>>`` of the text is wrong or unreadable."""
    return any(check.status != "right" for check in check_annotations(text))


def score_rollouts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rollouts: Sequence[Sequence[Generation]]
) -> JSONDict:
    """Compute ``engine_gap``, and ``rollout_entropy`` if the engine lacks it."""
    flat = [sample for samples in rollouts for sample in samples if sample.token_ids]
    missing = any(sample.entropies is None for sample in flat)
    chosen = flat[:: max(1, len(flat) // (_SCORED_FOR_ENTROPY if missing else _SCORED))]
    scores = score_responses(model, as_sampled(chosen, tokenizer))
    record = {"engine_gap": engine_gap(scores, chosen)}
    entropies = [entropy for score in scores for entropy in score.entropies]
    return record | ({"rollout_entropy": fmean(entropies)} if missing and entropies else {})


@contextmanager
def timed(record: JSONDict, phase: str) -> Iterator[None]:
    """Add the seconds of a phase, and on a GPU its peak memory, to the record."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    yield
    record[f"{phase}_seconds"] = time.perf_counter() - began
    if cuda:
        record[f"{phase}_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30


def _distinct(group: Sequence[Graded]) -> int:
    return len({item.generation.text.strip() for item in group})


def _fraction(outcomes: Sequence[bool]) -> float | None:
    return fmean(outcomes) if outcomes else None
