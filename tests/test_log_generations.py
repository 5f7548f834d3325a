"""What the handout wants logged, by hand."""

from __future__ import annotations

import json

import pytest

from cs336_sft.errors import DataError, RewardFunctionError
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.evaluation.handout import log_generations
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import r1_zero_reward_fn
from cs336_sft.records import Generation
from cs336_sft.utils.files import read_jsonl


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


def test_records_and_metrics_by_hand(tmp_path) -> None:
    sampler = Scripted()
    path = tmp_path / "log.jsonl"
    graded, metrics = log_generations(sampler, PROMPTS, ["5", "5", "5"], r1_zero_reward_fn, SamplingConfig(), path=path)
    assert sampler.sampling.record_entropy  # asked for, whatever the caller's config says
    assert [(g.format_reward, g.answer_reward, g.reward) for g in graded] == [(1, 1, 1), (1, 0, 0), (0, 0, 0)]
    assert [(g.generation.prompt, g.problem.final) for g in graded] == [(p, "5") for p in PROMPTS]
    assert (metrics.avg_gen_len, metrics.avg_gen_len_correct, metrics.avg_gen_len_wrong) == (4, 2, 5)
    assert metrics.entropy == pytest.approx((4 + 3 + 7) / 12)  # over tokens
    assert (metrics.n, metrics.n_problems) == (3, 3)
    assert (metrics.format_accuracy, metrics.accuracy) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["mean_entropy"] for line in lines] == [2.0, 1.0, 1.0]  # the responses' average token entropies
    assert [len(line["token_ids"]) for line in lines] == [2, 3, 7]
    assert [g.reward for g in read_generations(path)] == [1, 0, 0]


def test_missing_numbers_are_none() -> None:
    _, metrics = log_generations(Scripted(False), ["right"], ["5"], r1_zero_reward_fn, SamplingConfig())
    assert metrics.entropy is None and metrics.avg_gen_len_wrong is None


def test_with_a_real_sampler(random_model, tokenizer) -> None:
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.0, num_samples=2)
    graded, metrics = log_generations(
        HFSampler(random_model, tokenizer), ["Tom", "has"], ["1", "2"], r1_zero_reward_fn, sampling
    )
    assert [(g.generation.prompt, g.problem.final) for g in graded] == [("Tom", "1")] * 2 + [("has", "2")] * 2
    assert (metrics.n, metrics.n_problems) == (4, 2)
    assert 4 < metrics.entropy < 6  # a random model over 300 tokens: just under log(300) = 5.7
    assert metrics.avg_gen_len_correct is None


def test_a_reward_function_that_raises_loses_no_generation(tmp_path) -> None:
    def reward_fn(response, truth):
        if "answer" in response:
            raise ValueError("a mistake")
        return r1_zero_reward_fn(response, truth)

    path = tmp_path / "log.jsonl"
    with pytest.raises(RewardFunctionError):
        log_generations(Scripted(), PROMPTS, ["5"] * 3, reward_fn, SamplingConfig(), path=path)
    assert [row["prompt"] for _, row in read_jsonl(f"{path}.ungraded")] == PROMPTS


@pytest.mark.parametrize("truths", [[], ["1", "2"]])
def test_one_ground_truth_for_each_prompt(truths) -> None:
    with pytest.raises(DataError, match="one ground truth for each"):
        log_generations(Scripted(), ["right"], truths, r1_zero_reward_fn, SamplingConfig())
    with pytest.raises(DataError):
        log_generations(Scripted(), [], [], r1_zero_reward_fn, SamplingConfig())
