"""The loop of GRPO: its updates against a loop by hand, and the same numbers wherever it was killed."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace

import pytest
import torch

from cs336_sft.errors import ConfigError, CourseError, RunDirectoryError
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.grpo import loop
from cs336_sft.grpo.config import GRPOConfig
from cs336_sft.grpo.loop import rewards_of, run_grpo, update
from cs336_sft.prompts import get_template
from cs336_sft.records import Example, Generation, Graded
from cs336_sft.training import checkpoints
from cs336_sft.training.result import without_wall_clock

TEMPLATE = get_template("question_only")
CONFIG = GRPOConfig(
    steps=4,
    questions_per_step=3,
    num_samples=4,
    max_new_tokens=8,
    min_new_tokens=1,
    chunk_questions=2,
    batch_size=12,
    learning_rate=1e-2,
    eval_every=2,
    checkpoint_every=2,
    seed=1,
)


class Killed(BaseException):
    """Not caught by anything, as a real kill."""


def parity(graded, config, step) -> list[float]:
    return [float(len(item.generation.text) % 2 == 0) for item in graded]


@pytest.fixture
def make_model(random_model):
    bias = torch.zeros(random_model.lm_head.out_features)
    bias[0] = 4.0  # ends its text about once in eight tokens
    random_model.lm_head.bias = torch.nn.Parameter(bias)
    return lambda: copy.deepcopy(random_model)


@pytest.fixture
def run(tokenizer, problems, monkeypatch):
    monkeypatch.setattr(loop, "rewards_of", parity)

    def start(model, folder, config=CONFIG, sampler=None, **settings):
        sampler = sampler or HFSampler(copy.deepcopy(model), tokenizer, 4)  # until it gets the policy's weights
        settings = {"validation": problems[:2]} | settings
        return run_grpo(model, tokenizer, problems[:5], TEMPLATE, config, folder, sampler=sampler, **settings)

    return start


def whole(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def make_answers() -> tuple[list[Example], torch.Tensor]:
    rng = random.Random(0)
    ids = lambda n: tuple(rng.randrange(2, 200) for _ in range(n))  # noqa: E731
    return [Example(ids(4), ids(length)) for length in (3, 6, 1, 5)], torch.tensor([1.0, -0.5, 0.25, -0.75])


def log_probs_of(model, example) -> torch.Tensor:
    ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
    log_probs = model(ids).logits[0, :-1].log_softmax(-1)
    first = len(example.prompt_ids) - 1
    return log_probs[first:].gather(1, ids[0, first + 1 :, None])[:, 0]


# --- updates ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", ["answer", "constant"])
@pytest.mark.parametrize("micro", [None, 1, 3])
def test_updates_are_those_of_a_loop_by_hand(make_model, micro, lengths) -> None:
    """Two passes in batches of two, so that the second is off-policy and clips."""
    config = replace(
        CONFIG, epochs=2, batch_size=2, micro_batch_size=micro, lengths=lengths, weight_decay=0.0, cliprange=0.05
    )
    examples, advantages = make_answers()
    model, hand = make_model().double(), make_model().double()
    with torch.no_grad():
        old = [log_probs_of(model, example) for example in examples]
    record = update(
        model,
        loop.make_optimizer(model, replace(config, learning_rate=1.0)),
        examples,
        advantages,
        old,
        config,
        step=3,
        lr=config.learning_rate,
    )
    optimizer = torch.optim.AdamW(hand.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=0.0)
    losses, norms, clipped, kls = [], [], [], []
    for epoch in range(2):
        order = list(range(4))
        random.Random(f"epoch {epoch} of step 3, seed 1").shuffle(order)
        for batch in (order[:2], order[2:]):
            loss, shares, changes = 0.0, [], []
            for index in batch:
                ratio = (log_probs_of(hand, examples[index]) - old[index]).exp()
                weight = advantages[index].double()
                part = -torch.minimum(ratio * weight, ratio.clamp(0.95, 1.05) * weight)
                shares += (ratio.clamp(0.95, 1.05) * weight < ratio * weight).double().tolist()
                changes += (ratio - 1 - ratio.log()).tolist()
                loss = loss + (part.mean() if lengths == "answer" else part.sum() / config.max_new_tokens) / 2
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(hand.parameters(), config.max_grad_norm).item())
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            clipped.append(sum(shares) / len(shares))
            kls.append(sum(changes) / len(changes))
    assert record["updates"] == 4 and 0 < record["clip_fraction"] == pytest.approx(sum(clipped) / 4)
    assert 0 < record["kl"] == pytest.approx(sum(kls) / 4, rel=1e-5) and record["lr"] == config.learning_rate
    assert record["loss"] == pytest.approx(sum(losses) / 4, abs=1e-6)
    assert record["grad_norm"] == pytest.approx(sum(norms) / 4, rel=1e-5)
    torch.testing.assert_close(whole(model), whole(hand), rtol=0, atol=1e-6)


def test_an_answer_with_a_positive_advantage_becomes_more_probable(make_model) -> None:
    examples, advantages = make_answers()
    model = make_model()
    with torch.no_grad():
        before = [log_probs_of(model, example) for example in examples]
    config = replace(CONFIG, batch_size=12, learning_rate=1e-3)
    record = update(model, loop.make_optimizer(model, config), examples, advantages, before, config, 1, lr=1e-3)
    with torch.no_grad():
        gains = [(log_probs_of(model, e).sum() - b.sum()).item() for e, b in zip(examples, before, strict=True)]
    assert gains[0] > 0 > gains[1] and gains[0] > gains[2]
    assert record["kl"] == pytest.approx(0.0, abs=1e-6) and record["clip_fraction"] == 0.0  # on policy


def test_equal_rewards_make_no_update(make_model) -> None:
    examples, _ = make_answers()
    model = make_model()
    before = whole(model)
    record = update(model, loop.make_optimizer(model, CONFIG), examples, torch.zeros(4), [], CONFIG, 1, lr=1e-2)
    assert record["updates"] == 0 and record["loss"] is None and torch.equal(whole(model), before)


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_a_run_raises_its_reward_and_leaves_everything_in_its_directory(make_model, run, tmp_path) -> None:
    seen = []
    config = replace(CONFIG, steps=12, learning_rate=3e-3, questions_per_step=5, num_samples=8, batch_size=40)
    result = run(make_model(), tmp_path, config, report=seen.append)
    rewards = [record["reward"] for record in result.metrics]
    assert sum(rewards[-3:]) > sum(rewards[:3]) + 0.3
    assert [record["step"] for record in result.metrics] == list(range(1, 13)) == [r["step"] for r in seen]
    assert [record["step"] for record in result.evaluations] == [0, 2, 4, 6, 8, 10, 12]
    first = result.metrics[0]
    assert max(abs(record["engine_gap"]) for record in result.metrics) < 1e-4  # the sampler follows the policy
    last = tmp_path / "checkpoints" / "step-00000012"
    assert last.is_dir() and not (last / "optimizer.safetensors").exists()
    assert first["updates"] == 1 and 0 < first["informative"] <= 1
    assert first["rollout_n"] == 40 and first["rollout_entropy"] > 0
    assert not result.interrupted and (tmp_path / "final" / "model.safetensors").exists()


@pytest.mark.parametrize("moment", ["sampling", "update", "evaluation", "saving"])
def test_killed_anywhere_a_run_ends_with_the_same_numbers(make_model, run, tokenizer, tmp_path, monkeypatch, moment):
    whole_run, model = make_model(), make_model()
    expected = run(whole_run, tmp_path / "whole")
    calls = {"n": 0}

    def dies(function, at):
        def wrapper(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == at:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        if moment == "sampling":
            patch.setattr(HFSampler, "generate", dies(HFSampler.generate, 8))
        elif moment == "update":
            patch.setattr(torch.optim.AdamW, "step", dies(torch.optim.AdamW.step, 3))
        elif moment == "evaluation":
            patch.setattr(loop, "_evaluate", dies(loop._evaluate, 2))
        else:
            patch.setattr(checkpoints, "save_checkpoint", dies(checkpoints.save_checkpoint, 2))
        with pytest.raises(Killed):
            run(model, tmp_path / "killed")
    again = make_model()
    found = run(again, tmp_path / "killed")
    assert without_times(found.metrics) == without_times(expected.metrics)
    assert without_times(found.evaluations) == without_times(expected.evaluations)
    assert torch.equal(whole(again), whole(whole_run))


def without_times(records):
    return [{k: v for k, v in r.items() if not k.endswith("_peak_gib")} for r in without_wall_clock(records)]


def test_a_finished_run_is_returned_and_another_one_refused(make_model, run, tmp_path, monkeypatch) -> None:
    model, other = make_model(), make_model()
    first = run(model, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", None)
        assert run(other, tmp_path) == first == run(model, tmp_path)
    assert torch.equal(whole(model), whole(other))
    with pytest.raises(RunDirectoryError, match="cliprange was 0.2, now 0.3"):
        run(make_model(), tmp_path, replace(CONFIG, cliprange=0.3))
    with pytest.raises(RunDirectoryError, match="steps was 4, now 6"):  # its last checkpoint has no optimizer
        run(make_model(), tmp_path, replace(CONFIG, steps=6))


def test_an_engine_with_other_weights_is_refused(make_model, run, tokenizer, tmp_path) -> None:
    stale = make_model()
    with torch.no_grad():
        for parameter in stale.parameters():
            parameter.mul_(1.5)

    class Stale(HFSampler):
        def update_weights(self, model):
            super().update_weights(stale)

    with pytest.raises(CourseError, match="step 1: the sampler's log-probabilities differ by"):
        run(make_model(), tmp_path, sampler=Stale(stale, tokenizer, 4))


def test_each_step_has_its_own_questions_answers_and_advantages(make_model, run, tmp_path, monkeypatch) -> None:
    """Of a policy that does not change."""
    seen = []

    def spy(graded, config, step):
        seen.append([(item.problem.question, item.generation.text) for item in graded])
        return parity(graded, config, step)

    given = []
    monkeypatch.setattr(loop, "rewards_of", spy)
    monkeypatch.setattr(loop, "update", lambda *args, **kwargs: given.append(args[3]) or {"updates": 0})
    still = replace(CONFIG, normalize_by_std=False, questions_per_step=5, eval_every=None, batch_size=20)
    for seed in (1, 2):
        run(make_model(), tmp_path / str(seed), replace(still, seed=seed))
    assert len(seen) == 8 and len({tuple(sorted(answers)) for answers in seen}) == 8
    assert len({tuple(question for question, _ in answers) for answers in seen}) > 4  # of the same five, in some order
    for answers, advantages in zip(seen, given, strict=True):
        rewards = [float(len(text) % 2 == 0) for _, text in answers]
        expected = [reward - sum(rewards[at - at % 4 : at - at % 4 + 4]) / 4 for at, reward in enumerate(rewards)]
        assert advantages.tolist() == pytest.approx(expected)
        assert all(len({question for question, _ in answers[at : at + 4]}) == 1 for at in range(0, 20, 4))


def test_rewards_and_their_controls(problems) -> None:
    def item(reward, lenient, form):
        generation = Generation(prompt="p", sample=0, text="t", token_ids=(1,), finish_reason="stop", stop_reason=None)
        return Graded(problems[0], generation, format_reward=form, answer_reward=reward, reward=reward, lenient=lenient)

    graded = [item(1.0, 1.0, 1.0), item(0.0, 1.0, 0.0), item(0.0, 0.0, 1.0), item(0.0, 0.0, 0.0)] * 5
    found = {name: rewards_of(graded, replace(CONFIG, reward=name), 1) for name in ("strict", "lenient", "format")}
    assert found == {"strict": [1, 0, 0, 0] * 5, "lenient": [1, 1, 0, 0] * 5, "format": [1, 0, 1, 0] * 5}
    drawn = [rewards_of(graded, replace(CONFIG, reward="random"), step) for step in (1, 1, 2)]
    assert (
        drawn[0] == drawn[1] != drawn[2] and sorted(drawn[0]) == sorted(found["strict"]) and drawn[0] != found["strict"]
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_samples": 1}, "num_samples"),
        ({"temperature": 0.0}, "temperature"),
        ({"cliprange": -0.1}, "cliprange"),
        ({"reward": "best"}, "reward"),
        ({"loss_type": "reinforce_with_baseline", "epochs": 2}, "grpo_clip"),
        ({"loss_type": "no_baseline", "batch_size": 6}, "grpo_clip"),
        ({"steps": 0}, "steps"),
        ({"max_steps": 3}, "max_steps"),
    ],
)
def test_a_bad_field_is_named(settings, words) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(CONFIG, **settings)


def test_too_few_problems(make_model, run, tmp_path) -> None:
    with pytest.raises(ConfigError, match="questions_per_step is 6, there are 5 problems"):
        run(make_model(), tmp_path, replace(CONFIG, questions_per_step=6, batch_size=64))
    assert math.isclose(CONFIG.sampling(3).seed, 100_003)
