"""What the handout wants logged, by hand."""

from __future__ import annotations

import json

import pytest

from cs336_sft.errors import DataError
from cs336_sft.evaluation.log_generations import log_generations
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import r1_zero_reward_fn
from cs336_sft.records import Generation


class Scripted:
    def __init__(self, entropies=True):
        self.entropies = entropies

    def generate(self, prompts, sampling):
        self.sampling = sampling
        texts = {
            "right": (" 2+3 </think> <answer> 5 </answer>", (1.0, 3.0)),
            "wrong": (" 2*3 </think> <answer> 6 </answer>", (0.0, 0.0, 3.0)),
            "unformatted": (" five", (1.0,) * 7),
        }
        return [
            [Generation(p, tuple(range(len(e))), t, "stop", entropies=e if self.entropies else None)]
            for p in prompts
            for t, e in [texts[p]]
        ]

    def update_weights(self, model): ...


PROMPTS = ["right", "wrong", "unformatted"]


def test_records_and_summary_by_hand(tmp_path) -> None:
    sampler = Scripted()
    path = tmp_path / "log.jsonl"
    records, summary = log_generations(
        sampler, PROMPTS, ["5", "5", "5"], r1_zero_reward_fn, SamplingConfig(), path=path
    )
    assert sampler.sampling.record_entropy  # asked for, whatever the caller's config says
    assert [(r.format_reward, r.answer_reward, r.reward) for r in records] == [(1, 1, 1), (1, 0, 0), (0, 0, 0)]
    assert [r.average_token_entropy for r in records] == [2.0, 1.0, 1.0]
    assert [r.response_length for r in records] == [2, 3, 7]
    assert [(r.prompt, r.ground_truth) for r in records] == [(p, "5") for p in PROMPTS]
    assert (summary.average_length, summary.average_length_correct, summary.average_length_incorrect) == (4, 2, 5)
    assert summary.average_token_entropy == pytest.approx(4 / 3)
    assert (summary.n, summary.format_reward, summary.reward) == (3, pytest.approx(2 / 3), pytest.approx(1 / 3))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [vars(record) for record in records]


def test_missing_numbers_are_none() -> None:
    _, summary = log_generations(Scripted(False), ["right"], ["5"], r1_zero_reward_fn, SamplingConfig())
    assert summary.average_token_entropy is None
    assert summary.average_length_incorrect is None


def test_with_a_real_sampler(random_model, tokenizer) -> None:
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.0, n=2)
    records, summary = log_generations(
        HFSampler(random_model, tokenizer), ["Tom", "has"], ["1", "2"], r1_zero_reward_fn, sampling
    )
    assert [(r.prompt, r.ground_truth) for r in records] == [("Tom", "1")] * 2 + [("has", "2")] * 2
    assert 4 < summary.average_token_entropy < 6  # a random model over 300 tokens: just under log(300) = 5.7
    assert summary.average_length_correct is None


@pytest.mark.parametrize("truths", [[], ["1", "2"]])
def test_one_ground_truth_for_each_prompt(truths) -> None:
    with pytest.raises(DataError, match="one ground truth for each"):
        log_generations(Scripted(), ["right"], truths, r1_zero_reward_fn, SamplingConfig())
    with pytest.raises(DataError):
        log_generations(Scripted(), [], [], r1_zero_reward_fn, SamplingConfig())
