"""``cs336-sft grpo`` from the command line, with a random model."""

from __future__ import annotations

import json
import os
import signal

import pytest

from cs336_sft.cli import build_parser, common, main
from cs336_sft.cli.config_options import given_fields
from cs336_sft.errors import ConfigError
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.grpo.run import GRPORunConfig, describe, make_grpo_config, start_grpo, summarise
from cs336_sft.training.result import TrainingResult, load_result, without_wall_clock


@pytest.fixture
def command(run_arguments) -> list[str]:
    own = ["--train-size", "12", "--eval-every", "2", "--questions-per-step", "3", "--steps", "4"]
    return ["grpo", *run_arguments, *own]


@pytest.fixture
def half_right(monkeypatch):
    """Reward 1 for every other answer of a step, in place of a grader that finds nothing right in nonsense."""
    from cs336_sft.grpo import loop

    monkeypatch.setattr(loop, "rewards_of", lambda graded, config, step: [float(n % 2) for n in range(len(graded))])


def test_a_run_is_told_in_a_table_and_in_json(command, half_right, tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    assert main([*command, "--out", str(folder)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    titles = "step reward informative entropy length accuracy lenient in format"
    assert lines[0].split() == titles.split() and [line.split()[0] for line in lines[1:4]] == ["0", "2", "4"]
    assert lines[1].split()[1:5] == ["-"] * 4 and lines[2].split()[1:4] == ["0.500", "100.0", "%"]
    assert lines[-1] == f"run directory: {folder}; model: {folder / 'final'}"
    assert "warning: 3 of the 3 evaluation problems are among the training problems" in captured.err
    assert [f"step {step}: reward 0.500, 100 % informative, gradient" in captured.err for step in (1, 2, 3, 4, 5)] == [
        True
    ] * 4 + [False]
    # Called again it reads what there is.
    assert main([*command, "--out", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    result = load_result(folder)
    assert "step 1" not in captured.err and (found["steps"], found["interrupted"]) == (4, False)
    assert found["summary"] == summarise(result) and found["run"] == str(folder)
    # The same run from Python: the fields are the options' names.
    paths = {"model": "model", "data": "train.jsonl", "eval_data": "validation.jsonl"}
    config = make_grpo_config(
        **{name: str(tmp_path / path) for name, path in paths.items()},
        **{"train_size": 12, "eval_size": 3, "eval_every": 2, "questions_per_step": 3, "num_samples": 2},
        **{"steps": 4, "max_new_tokens": 8},
    )
    assert start_grpo(config, folder) == result


def test_ctrl_c_stops_after_the_step_and_the_same_command_goes_on(
    command, half_right, tmp_path, capsys, monkeypatch
) -> None:
    assert main([*command, "--out", str(tmp_path / "whole"), "--json"]) == 0

    def interrupts(message: str) -> None:
        if message.startswith("step 1:"):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(common, "note", interrupts)
        assert main([*command, "--out", str(tmp_path / "stopped")]) == 130
    captured = capsys.readouterr().out
    assert captured.endswith(f"run directory: {tmp_path / 'stopped'}\n")  # without a model
    stopped = load_result(tmp_path / "stopped")
    assert stopped.interrupted and stopped.steps == 1
    assert (tmp_path / "stopped" / "checkpoints" / "step-00000001" / "optimizer.safetensors").exists()
    assert main([*command, "--out", str(tmp_path / "stopped")]) == 0
    whole, resumed = load_result(tmp_path / "whole"), load_result(tmp_path / "stopped")
    assert without_wall_clock(resumed.metrics) == without_wall_clock(whole.metrics)
    assert without_wall_clock(resumed.evaluations) == without_wall_clock(whole.evaluations)
    assert len({record["grad_norm"] for record in whole.metrics}) > 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--model", "./nowhere"], "no model folder ./nowhere"),
        (["--num-samples", "1"], "num_samples is 1"),
        (["--num-samples", "many"], "num_samples is 'many'"),
        (["--train-size", "99"], "99 problems asked for"),
        (["--train-size", "2"], "questions_per_step is 3, there are 2 problems"),
        (["--batch-size", "2", "--loss-type", "no_baseline"], "use 'grpo_clip'"),
        (["--max-model-len", "512"], "max_model_len is a setting of vLLM"),
    ],
)
def test_mistakes_are_told_with_a_remedy(command, tmp_path, capsys, extra, message) -> None:
    assert main([*command, *extra, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1] and "Remedy" in error[-1]


def test_options_reach_the_configuration() -> None:
    arguments = (
        "grpo --out x --reward lenient --loss-type reinforce_with_baseline --cliprange 0.1 --no-normalize-by-std "
        "--lengths constant --temperature 0.7 --min-new-tokens 2 --seed 3 --num-samples 4 --questions-per-step 6 "
        "--learning-rate 3e-5 --checkpoint-every 5 --train-size 99"
    )
    config = make_grpo_config(**given_fields(build_parser().parse_args(arguments.split()), GRPORunConfig))
    assert (config.reward, config.loss_type, config.cliprange) == ("lenient", "reinforce_with_baseline", 0.1)
    assert (config.normalize_by_std, config.lengths, config.temperature) == (False, "constant", 0.7)
    assert (config.min_new_tokens, config.seed, config.subset_seed, config.train_size) == (2, 3, 3, 99)
    assert (config.learning_rate, config.checkpoint_every) == (3e-5, 5)
    assert (config.num_samples, config.questions_per_step, config.batch_size) == (4, 6, 24)  # all answers of a step


def test_the_command_and_python_have_the_same_defaults() -> None:
    args = build_parser().parse_args(["grpo", "--out", "x", "--profile", "tiny"])
    config = make_grpo_config(**given_fields(args, GRPORunConfig))
    assert config == make_grpo_config(profile="tiny") and (config.epochs, config.batch_size) == (1, 64)
    assert config.learning_rate == get_profile("tiny").learning_rate
    assert GRPORunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert make_grpo_config(epochs=2, batch_size=16).batch_size == 16


def test_the_summary_joins_an_evaluation_with_the_steps_before_it(tmp_path) -> None:
    def step(number: int, reward: float, entropy: float | None) -> dict:
        return {"step": number, "reward": reward, "informative": 0.5, "rollout_entropy": entropy, "rollout_length": 9.0}

    metrics = (step(1, 0.0, 1.0), step(2, 0.5, None), step(3, 0.25, None), step(4, 0.75, None), step(5, 1.0, 2.0))
    evaluations = ({"step": 0, "accuracy": 0.1}, {"step": 2, "accuracy": 0.2})
    found = summarise(TrainingResult(tmp_path, 5, True, metrics, evaluations))
    common = {"informative": 0.5, "rollout_length": 9.0}
    assert found == [
        {"step": 0, "accuracy": 0.1},
        {"step": 2, "accuracy": 0.2, "reward": 0.25, "rollout_entropy": 1.0} | common,
        {"step": 5, "reward": pytest.approx(2 / 3), "rollout_entropy": 2.0} | common,
    ]


def test_a_step_without_an_update_says_why() -> None:
    record = {"step": 3, "reward": 1.0, "informative": 0.0, "grad_norm": None, "updates": 0}
    assert describe(record) == "step 3: reward 1.000, 0 % informative, no update: each group has one reward"


@pytest.mark.parametrize(("field", "value"), [("subset_seed", -1), ("train_size", 0), ("test_checkpoint", "last")])
def test_a_bad_field_of_a_run_is_named(field, value) -> None:
    with pytest.raises(ConfigError, match=f"GRPORunConfig.{field} is {value!r}"):
        make_grpo_config(**{field: value})
