"""The cache of rollouts: what is sampled once stays, and nothing is mixed up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cs336_sft.errors import CourseError, RunDirectoryError
from cs336_sft.expert_iteration.rollouts import rollout_key, sample_rollouts
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.records import Generation

SAMPLING = SamplingConfig(max_new_tokens=8, temperature=1.0, num_samples=2, seed=1)


class Fake:
    """Answers with the prompt and what it was asked; can break after some prompts."""

    def __init__(self, breaks_at: str | None = None):
        self.breaks_at, self.asked = breaks_at, []

    def generate(self, prompts, sampling):
        self.asked.append(list(prompts))
        if self.breaks_at in prompts:
            raise KeyboardInterrupt
        return [
            [
                Generation(p, (1, 2, k), f"{p}{k}\u2028", "stop", None, k, (-0.1234567, -1.0, 0.0), (0.5, 0.25, 1e-9))
                for k in range(sampling.num_samples)
            ]
            for p in prompts
        ]

    def update_weights(self, model): ...


def test_an_interrupted_rollout_phase_goes_on_after_its_last_chunk(tmp_path):
    prompts = [f"p{i}" for i in range(7)]
    with pytest.raises(KeyboardInterrupt):
        sample_rollouts(Fake("p5"), prompts, SAMPLING, tmp_path, weights="w", chunk=2)
    with next(tmp_path.glob("*.jsonl")).open("a") as file:
        file.write('{"prompt": "p4", "sam')  # killed while it wrote
    second = Fake()
    found = sample_rollouts(second, prompts, SAMPLING, tmp_path, weights="w", chunk=2)
    assert second.asked == [["p4", "p5"], ["p6"]]
    assert found == sample_rollouts(Fake("p0"), prompts, SAMPLING, tmp_path, weights="w")
    assert found == sample_rollouts(Fake(), prompts, SAMPLING, tmp_path / "other", weights="w", chunk=3)
    assert [[g.prompt for g in samples] for samples in found] == [[p, p] for p in prompts]
    assert found[3][1].token_ids == (1, 2, 1) and found[3][1].entropies == (0.5, 0.25, 0.0)
    assert found[3][1].logprobs == (-0.12346, -1.0, 0.0)


def test_a_prompt_that_comes_twice_is_sampled_once(tmp_path):
    fake = Fake()
    a, b, c = sample_rollouts(fake, ["x", "y", "x"], SAMPLING, tmp_path, weights="w")
    assert fake.asked == [["x", "y"]] and a == c != b


@pytest.mark.parametrize(
    "change", ["weights", "engine", "seed", "temperature", "num_samples", "min_new_tokens", "max_new_tokens"]
)
def test_other_weights_or_parameters_are_other_rollouts(tmp_path, change):
    sample_rollouts(Fake(), ["x"], SAMPLING, tmp_path, weights="w", engine="e")
    other = {"weights": "w", "engine": "e"} | ({change: "other"} if change in ("weights", "engine") else {})
    sampling = SAMPLING if change in other else replace(SAMPLING, **{change: 7 if change != "temperature" else 0.5})
    fake = Fake()
    sample_rollouts(fake, ["x"], sampling, tmp_path, **other)
    assert fake.asked == [["x"]]
    assert rollout_key(SAMPLING, "w", "e") != rollout_key(sampling, **other)


def test_a_wrong_number_of_samples_and_a_damaged_cache_are_told(tmp_path):
    class One(Fake):
        def generate(self, prompts, sampling):
            return [samples[:1] for samples in super().generate(prompts, sampling)]

    with pytest.raises(CourseError, match="gave 1 samples"):
        sample_rollouts(One(), ["x"], SAMPLING, tmp_path, weights="w")
    sample_rollouts(Fake(), ["x"], SAMPLING, tmp_path, weights="w")
    next(tmp_path.glob("*.jsonl")).write_text("[1]\n")
    with pytest.raises(RunDirectoryError, match="line 1"):
        sample_rollouts(Fake(), ["x"], SAMPLING, tmp_path, weights="w")
