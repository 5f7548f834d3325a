"""The loop of expert iteration: what it trains on, and that it goes on with the same numbers wherever it was killed."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cs336_sft.data.gsm8k import write_problems
from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.expert_iteration import loop as module
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.loop import expert_iteration
from cs336_sft.expert_iteration.run_folder import load_expert_iteration
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.model.loading import load_model_and_tokenizer
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import make_examples
from cs336_sft.training import loop as training_loop
from cs336_sft.training.checkpoints import fingerprint_weights
from cs336_sft.training.result import without_wall_clock

TEMPLATE = get_template("question_only")
CONFIG = ExpertIterationConfig(
    rounds=2,
    questions_per_round=6,
    num_samples=3,
    max_new_tokens=12,
    min_new_tokens=1,
    chunk_questions=2,
    seed=1,
    learning_rate=1e-3,
    epochs=2,
    batch_size=4,
)


class Killed(BaseException):
    """Not caught by anything, as a real kill."""


@pytest.fixture
def make_model(random_model):
    """Copies of a model that ends its text about once in eight tokens."""

    bias = torch.zeros(random_model.lm_head.out_features)
    bias[0] = 4.0
    random_model.lm_head.bias = torch.nn.Parameter(bias)
    return lambda: copy.deepcopy(random_model)


def lucky(response: str, reference: str) -> dict[str, float]:
    """A grader that a random model can please: about half of all texts."""
    return dict.fromkeys(("format_reward", "answer_reward", "reward"), float(len(response) % 2 == 0))


def never(response: str, reference: str) -> dict[str, float]:
    return dict.fromkeys(("format_reward", "answer_reward", "reward"), 0.0)


@pytest.fixture
def iterate(make_model, tokenizer, problems, tmp_path):
    """``iterate(name, ...)``: one run in a folder of that name, with a fresh model, kept as ``iterate.model``."""

    def run(name="run", config=CONFIG, model=None, sampler=None, selection_grader=lucky, **values):
        run.model = model or make_model()
        sampler = sampler(run.model) if sampler else HFSampler(run.model, tokenizer, 8)
        arguments = {"sampler": sampler, "validation": problems[:3], "selection_grader": selection_grader} | values
        return expert_iteration(run.model, tokenizer, problems, TEMPLATE, config, tmp_path / name, **arguments)

    return run


def facts(result):
    """All numbers of a run, without times."""
    return without_wall_clock(result.rounds), result.test


def test_a_run_leaves_rounds_selections_and_a_model(iterate, problems, tokenizer, tmp_path):
    reported = []
    result = iterate(test=problems[:2], report=reported.append)
    assert not result.interrupted and result.test["n_problems"] == 2
    assert [record["round"] for record in result.rounds] == [0, 1, 2]
    assert [r["round"] for r in reported] == [0, 1, 2]
    assert load_expert_iteration(tmp_path / "run") == result
    assert result.rounds[-1]["weights"] == fingerprint_weights(iterate.model)
    assert len({record["weights"] for record in result.rounds}) == 3
    assert result.frame().index.tolist() == [0, 1, 2]
    for record in result.rounds[1:]:
        graded, selected = result.rollouts(record["round"]), result.selected(record["round"])
        assert len(graded) == record["rollout_n"] == 18
        policy = result.rounds[record["round"] - 1]["weights"]
        by_key = {(g.problem.id, g.generation.sample): g for g in graded}
        right = [g for g in graded if lucky(g.generation.text, "")["reward"] and g.generation.finish_reason == "stop"]
        texts = {(g.problem.id, g.generation.text.strip()) for g in right}
        assert 0 < len(selected) == record["kept_n"] == len(texts)
        assert record["steps"] == 2 * -(-len(selected) // 4)
        assert record["engine_gap"] < 1e-4
        for row in selected:
            item = by_key[row["id"], row["sample"]]
            assert row["policy"] == policy and row["source"] == "rollout" and row["round"] == record["round"]
            assert tuple(row["response_ids"]) == item.generation.token_ids
            assert row["response_ids"][-1] == tokenizer.eos_token_id
            assert lucky(item.generation.text, "")["reward"] == 1.0
    # Right for the selection's own grader, wrong for the template's: the metrics are the template's.
    assert result.rounds[1]["rollout_pass_rate"] == 0.0 and result.rounds[1]["kept_wrong"] == 1.0


def same_engine(sampler: type) -> type:
    """An engine is known by its class's name: this one's samples are the same as the Hugging Face sampler's."""
    sampler.__name__ = "HFSampler"
    return sampler


def kill_in_rollout(monkeypatch, after):
    calls = {"n": 0}
    generate = HFSampler.generate

    def broken(self, prompts, sampling):
        if sampling.temperature > 0:
            calls["n"] += 1
            if calls["n"] == after:
                raise Killed
        return generate(self, prompts, sampling)

    monkeypatch.setattr(HFSampler, "generate", broken)


def kill_in_grading(monkeypatch, after):
    calls = {"n": 0}
    grade = module.grade_generation

    def broken(*arguments):
        calls["n"] += 1
        if calls["n"] == after:
            raise Killed
        return grade(*arguments)

    monkeypatch.setattr(module, "grade_generation", broken)


def kill_in_training(monkeypatch, after):
    calls = {"n": 0}
    step = training_loop.optimizer_step

    def broken(*arguments, **values):
        calls["n"] += 1
        if calls["n"] == after:
            raise Killed
        return step(*arguments, **values)

    monkeypatch.setattr(training_loop, "optimizer_step", broken)


def kill_in_validation(monkeypatch, after):
    calls = {"n": 0}
    evaluate = module.evaluate

    def broken(*arguments, **values):
        calls["n"] += 1
        if calls["n"] == after:
            raise Killed
        return evaluate(*arguments, **values)

    monkeypatch.setattr(module, "evaluate", broken)


def _soak(kill, after, settings):
    return pytest.param(kill, after, settings, marks=pytest.mark.soak)


@pytest.fixture(scope="module")
def undisturbed():
    """What runs that nothing disturbs end with, by their settings."""
    return {}


@pytest.mark.parametrize(
    ("kill", "after", "settings"),
    [
        (kill_in_rollout, 5, {"train_from": "start"}),
        (kill_in_grading, 25, {}),
        (kill_in_training, 8, {}),
        (kill_in_validation, 3, {}),
        _soak(kill_in_rollout, 2, {}),
        _soak(kill_in_rollout, 5, {}),
        _soak(kill_in_grading, 7, {}),
        _soak(kill_in_training, 3, {}),
        _soak(kill_in_training, 8, {"train_from": "start"}),
        _soak(kill_in_validation, 1, {}),
    ],
)
def test_killed_anywhere_the_run_ends_with_the_same_numbers(
    iterate, problems, monkeypatch, undisturbed, kill, after, settings
):
    config = replace(CONFIG, checkpoint_every=2, **settings)
    if str(settings) not in undisturbed:
        whole = iterate("whole", config, test=problems[:2])
        undisturbed[str(settings)] = facts(whole), fingerprint_weights(iterate.model)
    with monkeypatch.context() as patch:
        kill(patch, after)
        with pytest.raises(Killed):
            iterate("killed", config, test=problems[:2])
    resumed = iterate("killed", config, test=problems[:2])
    assert (facts(resumed), fingerprint_weights(iterate.model)) == undisturbed[str(settings)]


# Forks children that go on with the same run; each kills itself with SIGKILL in another phase of another round.
# argv: folder with model and problems; prints how each child ended.
KILLER = """
    import json, os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from forked import exit_code_of
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from cs336_sft.data import gsm8k
    from cs336_sft.expert_iteration import loop as module
    from cs336_sft.expert_iteration.config import ExpertIterationConfig
    from cs336_sft.generation.hf_sampler import HFSampler
    from cs336_sft.prompts import get_template
    from cs336_sft.training import loop as training_loop

    folder = Path(sys.argv[1])
    problems = list(gsm8k.read_problems(folder / "problems.jsonl"))
    config = ExpertIterationConfig.from_dict(json.loads((folder / "config.json").read_text()))

    def lucky(response, reference):
        return dict.fromkeys(("format_reward", "answer_reward", "reward"), float(len(response) % 2 == 0))

    def dies_at(owner, name, call):
        original, calls = getattr(owner, name), []

        def sabotaged(*arguments, **values):
            calls.append(name)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **values)

        setattr(owner, name, sabotaged)

    def iterate(run_dir, *sabotage):
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        bias = torch.zeros(len(tokenizer))
        bias[0] = 4.0  # as in make_model
        model.lm_head.bias = torch.nn.Parameter(bias)
        if sabotage:
            dies_at(*sabotage)
        module.expert_iteration(
            model, tokenizer, problems, get_template("question_only"), config, run_dir,
            sampler=HFSampler(model, tokenizer, 8), validation=problems[:3], selection_grader=lucky,
        )

    # Validation of the start is the first call of generate, the second and third are the first chunks of round 1.
    moments = [(HFSampler, "generate", 3), (module, "grade_generation", 7)]
    moments += [(training_loop, "optimizer_step", 3), (module, "evaluate", 1)]
    codes = [exit_code_of(iterate, folder / "undisturbed")]
    codes += [exit_code_of(iterate, folder / "killed", *moment) for moment in moments]
    print(json.dumps([*codes, exit_code_of(iterate, folder / "killed")]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_by_the_system_in_every_phase_the_run_ends_with_the_same_numbers(
    random_model, tokenizer, problems, tmp_path
):
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_problems(tmp_path / "problems.jsonl", problems)
    config = replace(CONFIG, checkpoint_every=2)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(tmp_path)]
    paths = os.pathsep.join([str(Path(module.__file__).parents[2]), str(Path(__file__).parent)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert process.returncode == 0, process.stderr
    killed = -signal.SIGKILL
    assert json.loads(process.stdout) == [0, killed, killed, killed, killed, 0], process.stderr
    whole, resumed = (load_expert_iteration(tmp_path / name) for name in ("undisturbed", "killed"))
    assert len(resumed.rounds) == 3 and not resumed.interrupted
    assert facts(resumed) == facts(whole)


def test_rollouts_that_were_finished_are_not_sampled_again(iterate, monkeypatch, tokenizer):
    with monkeypatch.context() as patch:
        kill_in_rollout(patch, 3)  # two chunks of two questions are on the disk
        with pytest.raises(Killed):
            iterate()
    asked = []

    @same_engine
    class Counting(HFSampler):
        def generate(self, prompts, sampling):
            asked.append((len(prompts), sampling.temperature))
            return super().generate(prompts, sampling)

    iterate(sampler=lambda model: Counting(model, tokenizer, 8))
    assert [n for n, temperature in asked if temperature > 0] == [2, 2, 2, 2]


def test_arms_that_share_a_cache_share_their_first_round(iterate, tokenizer, tmp_path):
    shared = tmp_path / "shared"
    first = iterate("ei", cache_dir=shared)
    asked = []

    @same_engine
    class Counting(HFSampler):
        def generate(self, prompts, sampling):
            asked.append(sampling)
            return super().generate(prompts, sampling)

    config = replace(CONFIG, select="random", rounds=1)
    second = iterate("random", config, sampler=lambda model: Counting(model, tokenizer, 8), cache_dir=shared)
    assert not [sampling for sampling in asked if sampling.temperature > 0]
    names = [name for name in first.rounds[1] if name.startswith("rollout_") and not name.endswith("_seconds")]
    assert {n: first.rounds[1][n] for n in names} == {n: second.rounds[1][n] for n in names}


def test_ctrl_c_while_sampling_is_an_interrupted_run(iterate, tokenizer):
    @same_engine
    class Interrupting(HFSampler):
        def generate(self, prompts, sampling):
            if sampling.temperature > 0:
                raise KeyboardInterrupt
            return super().generate(prompts, sampling)

    result = iterate(sampler=lambda model: Interrupting(model, tokenizer, 8))
    assert result.interrupted and len(result.rounds) == 1
    assert not iterate().interrupted


def test_a_finished_run_is_loaded_and_not_made_again(iterate, tokenizer):
    first = iterate()

    @same_engine
    class Forbidden(HFSampler):
        def generate(self, prompts, sampling):
            raise AssertionError("sampled again")

    for model in (None, iterate.model):  # the starting weights, or those that the run has left in memory
        again = iterate(model=model, sampler=lambda model: Forbidden(model, tokenizer, 8))
        assert again == first
        assert fingerprint_weights(iterate.model) == first.rounds[-1]["weights"]


def test_a_round_without_a_correct_sample_changes_nothing_and_the_next_one_samples_anew(iterate):
    config = replace(CONFIG, questions_per_round=12)
    result = iterate(config=config, selection_grader=never)
    assert [record["steps"] for record in result.rounds] == [0, 0, 0]
    assert len({record["weights"] for record in result.rounds}) == 1
    assert result.rounds[2]["kept_n"] == 0 and result.rounds[2]["would_keep"] == 0
    one, two = result.rollouts(1), result.rollouts(2)
    assert [a.problem for a in one] == [b.problem for b in two]
    assert [a.generation.text for a in one] != [b.generation.text for b in two]
    assert iterate(config=config, selection_grader=never) == result


def test_continuing_and_starting_anew_differ_only_after_the_first_round(iterate):
    previous, start = iterate("a"), iterate("b", replace(CONFIG, train_from="start"))
    assert facts(previous)[0][:2] == facts(start)[0][:2]
    assert previous.rounds[2]["weights"] != start.rounds[2]["weights"]
    assert previous.rounds[2]["rollout_length"] == start.rounds[2]["rollout_length"]  # the same policy sampled


def test_starting_anew_begins_with_the_starting_weights(iterate, make_model, tokenizer, tmp_path, problems):
    result = iterate(config=replace(CONFIG, train_from="start"))
    config = json.loads((tmp_path / "run" / "round-02" / "sft" / "config.json").read_text())
    assert config["starting_weights"] == result.rounds[0]["weights"]


def test_the_random_control_trains_on_as_many_samples_of_any_kind(iterate):
    ei = iterate("ei")
    counts = tuple(record["kept_n"] for record in ei.rounds[1:])
    control = iterate("random", replace(CONFIG, select="random", samples_per_round=counts))
    assert [r["kept_n"] for r in control.rounds[1:]] == list(counts)
    assert [r["steps"] for r in control.rounds] == [r["steps"] for r in ei.rounds]
    assert control.rounds[1]["would_keep"] == ei.rounds[1]["kept_n"]
    rewards = [lucky(row["text"], "")["reward"] for row in control.selected(1) + control.selected(2)]
    assert 0 < sum(rewards) < len(rewards)


def test_the_finished_control_draws_from_what_ended_by_itself(iterate):
    control = iterate(config=replace(CONFIG, rounds=1, select="finished", samples_per_round=(5,)))
    finished = {
        (g.problem.id, g.generation.sample) for g in control.rollouts(1) if g.generation.finish_reason == "stop"
    }
    chosen = control.selected(1)
    assert len(chosen) == 5 and len(finished) < 18 and {(r["id"], r["sample"]) for r in chosen} <= finished
    assert 0 < sum(lucky(row["text"], "")["reward"] for row in chosen) < 5


def test_the_human_control_trains_on_the_references_for_as_many_steps(iterate, problems, tokenizer):
    human = iterate(config=replace(CONFIG, select="human", samples_per_round=(9, 3)))
    assert [r["steps"] for r in human.rounds] == [0, 6, 2]
    asked = [problem for problem in problems if problem.id in {row["id"] for row in human.selected(1)}]
    expected = {example.response_ids for example in make_examples(asked, TEMPLATE, tokenizer)}
    assert {tuple(row["response_ids"]) for row in human.selected(1)} == expected and len(expected) == 6


def test_caps_errors_and_graders_reach_the_selection(iterate):
    assert iterate("cap", replace(CONFIG, max_per_question=1)).rounds[1]["kept_most_of_one_question"] == 1
    wrong = replace(CONFIG, rounds=1, grader_error=1.0)
    assert iterate("all-wrong", wrong).selected(1) != []
    texts = [row["text"] for row in load_expert_iteration(iterate("flip", wrong).run_dir).selected(1)]
    assert not any(lucky(text, "")["reward"] for text in texts)
    lenient = iterate("lenient", replace(CONFIG, rounds=1, selection_grader="lenient"), selection_grader=None)
    assert lenient.rounds[1]["would_keep"] == 0 or lenient.rounds[1]["rollout_lenient_rate"] > 0


def test_old_weights_can_be_dropped(iterate, tmp_path):
    config = replace(CONFIG, rounds=3, keep_rounds=1)
    whole = iterate("all", replace(config, keep_rounds=None))
    pruned = iterate("pruned", config)
    assert facts(whole) == facts(pruned)
    left = [(tmp_path / "pruned" / f"round-0{n}" / "sft" / "checkpoints").exists() for n in (1, 2, 3)]
    assert left == [False, False, True]
    assert iterate("pruned", config) == pruned


def test_a_directory_belongs_to_one_run(iterate):
    iterate(config=replace(CONFIG, rounds=1))
    with pytest.raises(RunDirectoryError, match="num_samples was 3, now 4"):
        iterate(config=replace(CONFIG, rounds=1, num_samples=4))
    with torch.no_grad():
        iterate.model.lm_head.weight += 1
    with pytest.raises(RunDirectoryError, match="weights that the run started from"):
        iterate(config=replace(CONFIG, rounds=1), model=iterate.model)
    with pytest.raises(ConfigError, match="the pool has 12"):
        iterate("other", replace(CONFIG, questions_per_round=13))


def test_more_rounds_can_follow_on_a_finished_run(iterate, problems, tmp_path):
    iterate("grown", replace(CONFIG, samples_per_round=(9, 3)), test=problems[:2])
    longer = replace(CONFIG, rounds=3, samples_per_round=(9, 3, 5))
    grown = iterate("grown", longer, model=iterate.model, test=problems[:2])
    weights = fingerprint_weights(iterate.model)
    assert facts(grown) == facts(iterate("at-once", longer, test=problems[:2]))
    assert weights == fingerprint_weights(iterate.model) == grown.rounds[-1]["weights"] and not grown.interrupted
    assert load_model_and_tokenizer(tmp_path / "grown" / "final")[0].num_parameters() > 0
    with pytest.raises(RunDirectoryError, match="3 rounds are finished, 2 are asked for"):
        iterate("grown", replace(CONFIG, samples_per_round=(9, 3)), test=problems[:2])
    with pytest.raises(RunDirectoryError, match="samples_per_round was"):
        iterate("grown", replace(CONFIG, rounds=4, samples_per_round=(9, 3, 4, 4)), test=problems[:2])


def test_more_rounds_that_were_stopped_are_an_interrupted_run(iterate, monkeypatch, tmp_path):
    iterate(config=replace(CONFIG, rounds=1))
    with monkeypatch.context() as patch:
        kill_in_rollout(patch, 1)
        with pytest.raises(Killed):
            iterate()
    assert load_expert_iteration(tmp_path / "run").interrupted
    assert not iterate().interrupted


def test_a_grader_that_raises_loses_no_sample(iterate, tokenizer):
    def raises(response, reference):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        iterate(selection_grader=raises)

    @same_engine
    class Counting(HFSampler):
        def generate(self, prompts, sampling):
            asked.append(sampling.seed)
            return super().generate(prompts, sampling)

    asked = []
    iterate(config=replace(CONFIG, rounds=1), sampler=lambda model: Counting(model, tokenizer, 8))
    assert CONFIG.round_seed(1) not in asked


def test_a_run_has_one_grader(iterate):
    iterate(selection_grader=lambda response, reference: lucky(response, reference))
    with pytest.raises(RunDirectoryError, match="selection_grader_function was"):
        iterate(selection_grader=lambda response, reference: never(response, reference))
    with pytest.raises(RunDirectoryError, match="selection_grader_function was"):
        iterate(selection_grader=None)


def test_a_selection_that_was_made_is_not_made_again(iterate, monkeypatch):
    """Killed in training, the round goes on with its selection, also if the grader would choose otherwise now."""
    answers = iter([1.0, 0.0] * 9 + [0.0, 1.0] * 9)

    def moody(response, reference):
        return dict.fromkeys(("format_reward", "answer_reward", "reward"), next(answers))

    config = replace(CONFIG, rounds=1, checkpoint_every=1)
    with monkeypatch.context() as patch:
        kill_in_training(patch, 2)
        with pytest.raises(Killed):
            iterate(config=config, selection_grader=moody)
    result = iterate(config=config, selection_grader=moody)
    assert result.rounds[1]["steps"] > 0 and {row["sample"] for row in result.selected(1)} <= {0, 1, 2}


def test_a_run_needs_a_sampler(iterate, problems, tokenizer, make_model, tmp_path):
    with pytest.raises(ConfigError, match="no sampler"):
        iterate(sampler=lambda model: None)


class WithoutEntropies(HFSampler):
    def generate(self, prompts, sampling):
        return [
            [replace(sample, entropies=None) for sample in samples] for samples in super().generate(prompts, sampling)
        ]


def test_entropies_that_the_engine_lacks_come_from_the_policy(iterate, tokenizer):
    config = replace(CONFIG, rounds=1)
    with_own = iterate("own", config)
    without = iterate("without", config, sampler=lambda model: WithoutEntropies(model, tokenizer, 8))
    assert without.rounds[1]["rollout_entropy"] == pytest.approx(with_own.rounds[1]["rollout_entropy"], rel=1e-4)


class Stale(HFSampler):
    """An engine that keeps the weights it was made with."""

    def __init__(self, model, tokenizer):
        super().__init__(copy.deepcopy(model), tokenizer, 8)
        self.frozen = True

    def update_weights(self, model):
        if not getattr(self, "frozen", False):
            super().update_weights(model)


def test_a_stale_engine_shows_in_the_gap(iterate, tokenizer):
    result = iterate(sampler=lambda model: Stale(model, tokenizer))
    gaps = [record["engine_gap"] for record in result.rounds[1:]]
    assert gaps[0] < 1e-4 < 1e-2 < gaps[1]


@pytest.mark.parametrize(
    "values",
    [
        {"rounds": 0},
        {"num_samples": 2, "temperature": 0.0},
        {"temperature": -1.0},
        {"min_new_tokens": 999},
        {"grader_error": 1.5},
        {"add_format": True},
        {"samples_per_round": (1,)},
        {"select": "best"},
        {"max_per_question": 0},
        {"max_steps": 3},
        {"eval_every": "log"},
        {"epochs": 0},
    ],
)
def test_configurations_that_make_no_sense_are_refused(values):
    with pytest.raises(ConfigError):
        ExpertIterationConfig(**values)


def test_a_configuration_survives_json():
    config = replace(CONFIG, samples_per_round=(3, 4), max_per_question=2)
    assert ExpertIterationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="no field 'roundz'"):
        ExpertIterationConfig.from_dict({"roundz": 1})
