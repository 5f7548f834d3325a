"""Numbers of a round: pass@k against enumeration, the others by hand; scores against the plain formula."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from statistics import fmean

import pytest
import torch

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.response_scores import ResponseScores, engine_gap, score_responses
from cs336_sft.expert_iteration.metrics import has_flawed_step, kept_metrics, pass_at_k, rollout_metrics
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.losses import sft_loss
from cs336_sft.model.memory_measurement import measured
from cs336_sft.records import Example, Generation, Graded, Problem
from cs336_sft.tokenization import collate
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.step import make_optimizer


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_counts_the_subsets_with_a_correct_sample(n):
    for correct in range(n + 1):
        outcomes = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            assert pass_at_k(n, correct, k) == pytest.approx(fmean(any(s) for s in combinations(outcomes, k)))


@pytest.mark.parametrize("arguments", [(4, 5, 1), (4, -1, 1), (4, 1, 5), (4, 1, 0)])
def test_pass_at_k_refuses_impossible_counts(arguments):
    with pytest.raises(ConfigError):
        pass_at_k(*arguments)


def item(question, number, text, reward, lenient=None, finish="stop", entropies=None):
    problem = Problem(question, "#### 5", "5", id=question)
    ids = tuple(range(len(text)))
    generation = Generation("p", ids, text, finish, None, number, None, entropies)
    return Graded(problem, generation, float("####" in text), reward, reward, reward if lenient is None else lenient)


def test_rollout_metrics_by_hand():
    graded = [
        item("A", 0, "#### 5", 1.0, entropies=(1.0,) * 6),
        item("A", 1, "#### 5", 1.0, entropies=(0.0,) * 6),
        item("A", 2, "#### 55", 0.0, entropies=(0.0,) * 7),
        item("A", 3, "5", 0.0, 1.0, "length", entropies=(2.0,)),
        item("B", 0, "6", 0.0, entropies=(0.0,)),
        item("B", 1, "7", 0.0, entropies=(0.0,)),
        item("B", 2, "8", 0.0, entropies=(0.0,)),
        item("B", 3, "9", 0.0, entropies=(0.0,)),
    ]
    metrics = rollout_metrics(graded)
    assert metrics["pass_rate"] == 0.25 and metrics["coverage"] == 0.5 and metrics["n_questions"] == 2
    assert metrics["lenient_rate"] == 0.375 and metrics["format_rate"] == 0.375 and metrics["trunc_rate"] == 0.125
    assert metrics["pass_at_1"] == 0.25 and metrics["pass_at_4"] == 0.5
    assert metrics["pass_at_2"] == pytest.approx((1 - 1 / 6) / 2)
    assert metrics["distinct"] == (3 + 4) / 2 and metrics["distinct_correct"] == 0.5
    assert metrics["entropy"] == pytest.approx(8 / 24)  # over tokens
    assert metrics["length"] == 24 / 8 and metrics["length_correct"] == 6.0 and metrics["length_wrong"] == 2.0
    assert "pass_at_8" not in metrics
    with pytest.raises(DataError):
        rollout_metrics([])


def test_kept_metrics_by_hand():
    kept = [
        item("A", 0, "<<2+3=5>>5\n#### 5", 1.0),
        item("A", 1, "<<2+2=5>>5\n#### 5", 1.0),
        item("B", 0, "#### 5", 1.0),
        item("B", 1, "<<1+1=3>>#### 6", 0.0),
    ]
    metrics = kept_metrics(kept)
    assert metrics["n"] == 4 and metrics["n_questions"] == 2 and metrics["most_of_one_question"] == 2
    assert metrics["wrong"] == 0.25 and metrics["no_steps"] == 0.25
    assert metrics["flawed"] == pytest.approx(1 / 3)  # of the three with a right answer
    assert kept_metrics([])["wrong"] is None


@pytest.mark.parametrize(
    ("text", "flawed"),
    [("5", False), ("<<2+3=5>>", False), ("<<2+3=6>>", True), ("<<x=6>>", True), ("<<2+3=5", True)],
)
def test_flawed_steps(text, flawed):
    assert has_flawed_step(text) is flawed


def examples():
    return [
        Example(tuple(range(1, 1 + p)), tuple((7 * i) % 300 for i in range(r)))
        for p, r in [(3, 9), (20, 2), (1, 33), (5, 1), (4, 0)]
    ]


@pytest.mark.parametrize("tokens", [4096, 40, 1])
def test_scores_are_those_of_the_plain_formula(random_model, tokens):
    random_model.train()
    found = score_responses(random_model, examples(), batch_tokens=tokens)
    assert random_model.training
    for example, scores in zip(examples(), found, strict=True):
        batch = collate([example], 0)
        plain = get_response_log_probs(random_model.eval(), batch.input_ids, batch.labels, True)
        for name, values in (("log_probs", scores.logprobs), ("token_entropy", scores.entropies)):
            torch.testing.assert_close(torch.tensor(values), plain[name][batch.response_mask], rtol=1e-4, atol=1e-5)


def test_scoring_stays_within_the_memory_of_training(random_model):
    """The out-of-memory of logging an entropy must not come back: not with eight times as many sequences either."""
    sequences = [Example((1, 2, 3), tuple(range(4, 60))) for _ in range(8)]
    optimizer = make_optimizer(random_model, SFTConfig())
    with measured() as training:
        loss, _ = sft_loss(random_model, collate(sequences, 0), 448)
        loss.backward()
        optimizer.step()
    with measured() as scoring:
        score_responses(random_model, sequences * 8, batch_tokens=8 * 59)
    assert scoring.peak < training.peak / 2


def test_the_gap_of_an_engine(random_model):
    scores = [ResponseScores((-1.0, -2.0), (0.0, 0.0)), ResponseScores((-1.0,), (0.0,))]
    generation = Generation("p", (1, 2), "", "stop", logprobs=(-1.5, -2.0))
    short = Generation("p", (1,), "", "stop", logprobs=(0.0,))
    assert engine_gap(scores, [generation, short]) == pytest.approx(0.5)
    assert engine_gap(scores[:1], [replace(generation, logprobs=None)]) is None
