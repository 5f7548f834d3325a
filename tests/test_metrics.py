"""Metrics by hand on a few records."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import wilson_interval
from cs336_sft.evaluation.metrics import compute_metrics
from cs336_sft.records import Generation, Graded, Problem


def graded(problem: str, length: int, *, reward=0.0, form=0.0, lenient=0.0, finish="stop", entropies=None, sample=0):
    generation = Generation("Q", tuple(range(1, length + 1)), "text", finish, sample=sample, entropies=entropies)
    return Graded(Problem(problem, "#### 1", "1", id=problem), generation, form, reward, reward, lenient)


RECORDS = [
    graded("a", 10, reward=1.0, form=1.0, lenient=1.0),
    graded("b", 20, form=1.0, lenient=1.0),
    graded("c", 160, finish="length", lenient=1.0),
    graded("d", 30, form=1.0),
]


def test_every_metric_by_hand() -> None:
    metrics = compute_metrics(RECORDS)
    assert (metrics.n, metrics.n_problems) == (4, 4)
    assert metrics.accuracy == 0.25
    assert metrics.accuracy_lenient == 0.75
    assert metrics.format_accuracy == 0.75
    assert metrics.trunc_rate == 0.25
    assert metrics.avg_gen_len == 55
    assert metrics.avg_gen_len_correct == 10
    assert metrics.avg_gen_len_wrong == 70
    for name, hits in {"accuracy": 1, "accuracy_lenient": 3, "format_accuracy": 3, "trunc_rate": 1}.items():
        expected = wilson_interval(hits, 4)
        assert (getattr(metrics, name + "_low"), getattr(metrics, name + "_high")) == (expected.low, expected.high)


def test_dict_is_flat_and_json() -> None:
    row = compute_metrics([graded("a", 10)]).as_dict()
    assert row["avg_gen_len_correct"] is None and row["entropy"] is None
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    expected = {f"{rate}{end}" for rate in ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")
                for end in ("", "_low", "_high")}  # fmt: skip
    expected |= {"avg_gen_len", "avg_gen_len_correct", "avg_gen_len_wrong", "entropy", "n", "n_problems"}
    assert set(row) == expected
    assert compute_metrics([graded("a", 10, reward=1.0)]).avg_gen_len_wrong is None


def test_entropy_averages_over_tokens() -> None:
    records = [graded("a", 1, entropies=(4.0,)), graded("b", 3, entropies=(0.0, 1.0, 1.0))]
    assert compute_metrics(records).entropy == 1.5  # over generations it would be 2.33
    assert compute_metrics([*records, graded("c", 2)]).entropy is None  # a part of them would mislead
    assert compute_metrics(records[:1]).entropy == 4.0  # one token is enough
    assert compute_metrics([graded("a", 0, entropies=())]).entropy is None


def test_a_generation_without_tokens_has_length_zero() -> None:
    metrics = compute_metrics([graded("a", 0)])
    assert (metrics.avg_gen_len, metrics.avg_gen_len_correct, metrics.avg_gen_len_wrong) == (0.0, None, 0.0)


def test_a_finish_reason_read_from_a_file_counts_like_a_literal() -> None:
    assert compute_metrics([graded("a", 5, finish=json.loads('"length"'))]).trunc_rate == 1.0


def test_samples_of_a_problem_are_one_cluster() -> None:
    def records(names):
        return [graded(p, 5, reward=float(p < "n"), sample=i) for p in names for i in range(8)]

    clustered = compute_metrics(records("abcdnopq"))
    assert (clustered.n, clustered.n_problems, clustered.accuracy) == (64, 8, 0.5)
    assert (clustered.accuracy_low, clustered.accuracy_high) == pytest.approx((0.2152, 0.7848), abs=1e-4)  # 4 of 8
    by_question = [
        Graded(Problem("a question", "", "1"), r.generation, 0.0, 0.0, 0.0, 0.0) for r in records("abcdnopq")
    ]
    assert compute_metrics(by_question).n_problems == 1
    same_text = [replace(r, problem=replace(r.problem, question="2 + 3?")) for r in records("ab")]
    assert compute_metrics(same_text).n_problems == 2  # the id comes first


def test_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="no graded generations"):
        compute_metrics([])
