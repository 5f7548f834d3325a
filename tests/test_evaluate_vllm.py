"""`evaluate_vllm` with an engine that is not there: what it keeps when something goes wrong."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cs336_sft.errors import DataError, EngineDiedError, RewardFunctionError
from cs336_sft.evaluation import handout
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.evaluation.handout import evaluate_vllm
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.utils.files import read_jsonl

PROMPTS = ["Tom", "has", "5"]


PARAMS = SimpleNamespace(max_tokens=4)


class FakeEngine:
    """Finishes the requests, the last one first, and fails after `life` of them."""

    max_model_len = 100

    def __init__(self, life, failure=None):
        self.life, self.failure, self.left = life, failure, None

    def run(self, requests):
        self.left = dict(enumerate(requests))
        try:
            while self.left:
                if self.life == 0:
                    raise self.failure
                self.life -= 1
                number, _ = self.left.popitem()
                ending = {"finish_reason": "stop", "stop_reason": None}
                sample = SimpleNamespace(index=0, token_ids=[7, 0], text=f" #{number}\n#### 5", logprobs=None, **ending)
                yield number, SimpleNamespace(outputs=[sample])
        finally:
            self.left.clear()


@pytest.fixture
def run(monkeypatch, tokenizer, tmp_path):
    def call(engine, reward_fn=gsm8k_reward_fn, truths=("5", "5", "6")):
        monkeypatch.setattr(handout, "VLLMEngine", lambda llm: engine)
        llm = SimpleNamespace(get_tokenizer=lambda: tokenizer)
        return evaluate_vllm(llm, reward_fn, PROMPTS, PARAMS, ground_truths=truths, path=tmp_path / "out.jsonl")

    return call


def test_generations_are_graded_in_the_order_of_the_prompts(run, tmp_path) -> None:
    evaluation = run(FakeEngine(3))
    assert [g.generation.prompt for g in evaluation.graded] == PROMPTS
    assert [g.reward for g in evaluation.graded] == [1, 1, 0]
    assert read_generations(tmp_path / "out.jsonl") == evaluation.graded
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("failure", [RuntimeError("no more"), KeyboardInterrupt()])
def test_what_was_finished_is_kept_under_another_name(run, tmp_path, failure) -> None:
    engine = FakeEngine(2, failure)
    with pytest.raises((EngineDiedError, KeyboardInterrupt)) as caught:
        run(engine)
    assert isinstance(caught.value, KeyboardInterrupt) == isinstance(failure, KeyboardInterrupt)
    assert engine.left == {}, "requests stay in the engine"
    assert [p.name for p in tmp_path.iterdir()] == ["out.partial.jsonl"]  # not under the name of a whole evaluation
    assert [g.problem.final for g in read_generations(tmp_path / "out.partial.jsonl")] == ["5", "6"]
    if isinstance(caught.value, EngineDiedError):
        assert "after 2 of 3 requests (RuntimeError: no more)" in str(caught.value)
        assert "out.partial.jsonl" in str(caught.value) and caught.value.finished == 2
    engine.life = 3
    assert run(engine).metrics.n == 3  # the engine can go on


def test_a_reward_function_that_raises_loses_no_generation(run, tmp_path) -> None:
    def reward_fn(response, truth):
        if "#1" in response:
            raise ValueError("a mistake")
        return gsm8k_reward_fn(response, truth)

    with pytest.raises(RewardFunctionError, match="prompt/1"):
        run(FakeEngine(3), reward_fn)
    assert [row["prompt"] for _, row in read_jsonl(tmp_path / "out.jsonl.ungraded")] == PROMPTS


def test_a_ground_truth_that_cannot_be_graded_is_found_before_generating(run) -> None:
    engine = FakeEngine(3)
    with pytest.raises(DataError, match="'x' of prompt/2"):
        run(engine, truths=("5", "5", "x"))
    assert engine.left is None
