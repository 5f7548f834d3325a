"""``cs336-sft ei`` from the command line, with a random model."""

from __future__ import annotations

import json

import pytest

from cs336_sft.cli import build_parser, main
from cs336_sft.cli.config_options import given_fields
from cs336_sft.experiments.config import ExpertIterationRunConfig, make_ei_config
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.experiments.run_expert_iteration import run_expert_iteration


@pytest.fixture
def command(run_arguments) -> list[str]:
    return ["ei", *run_arguments, "--questions-per-round", "4", "--rounds", "1"]


def test_a_run_its_figure_and_a_control_like_it(command, tmp_path, capsys):
    human = [*command, "--select", "human", "--sft-size", "8", "--sft-epochs", "1", "--grader-error", "0.5"]
    human += ["--learning-rate", "3e-5"]
    assert main([*human, "--out", str(tmp_path / "a"), "--plot", str(tmp_path / "a.png"), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [record["round"] for record in found["rounds"]] == [0, 1]
    assert found["rounds"][1]["kept_n"] == 4 and "round 1: validation accuracy" in captured.err
    assert "warning: 3 of the 3 evaluation problems are among the training problems" in captured.err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a" / "ei" / "final" / "config.json").exists()
    configs = {part: json.loads((tmp_path / "a" / part / "config.json").read_text()) for part in ("start", "ei")}
    assert configs["ei"]["learning_rate"] == 3e-5  # of the rounds alone
    assert configs["start"]["learning_rate"] == get_profile("tiny").learning_rate
    like = [*command, "--select", "random", "--skip-train", "8", "--match-samples-of", str(tmp_path / "a" / "ei")]
    assert main([*like, "--out", str(tmp_path / "b")]) == 0
    assert "pass rate" in capsys.readouterr().out
    rounds = [json.loads(line) for line in (tmp_path / "b" / "rounds.jsonl").read_text().splitlines()]
    assert rounds[1]["kept_n"] == 4
    # The same run from Python: the fields are the options' names.
    paths = {"model": "model", "data": "train.jsonl", "eval_data": "validation.jsonl"}
    config = make_ei_config(
        **{name: str(tmp_path / path) for name, path in paths.items()},
        eval_size=3,
        questions_per_round=4,
        num_samples=2,
        rounds=1,
        max_new_tokens=8,
        select="random",
        skip_train=8,
        samples_per_round=(4,),
    )
    assert list(run_expert_iteration(config, tmp_path / "b").rounds) == rounds


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--temperature", "0"], "temperature is 0. "),
        (["--add-format"], "selection_grader='lenient'"),
        (["--match-samples-of", "nowhere"], "holds no expert iteration"),
        (["--plot", "a.txt"], "is not a picture's name"),
        (["--questions-per-round", "400"], "400 problems asked for"),
        (["--test-checkpoint", "best"], "choose one of last"),
        (["--sft-learning-rate", "0"], "sft_learning_rate is 0"),
    ],
)
def test_mistakes_are_told_in_one_line(command, tmp_path, capsys, extra, message):
    assert main([*command, *extra, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and "Remedy" in error


def test_options_reach_the_configuration():
    arguments = (
        "ei --out x --select finished --max-per-question 1 --grader-error 0.1 --epochs 2 --train-from start "
        "--no-append-eos --max-new-tokens 99 --no-drop-duplicates --seed 3 --num-samples 8 --sft-size 16"
    )
    config = make_ei_config(**given_fields(build_parser().parse_args(arguments.split()), ExpertIterationRunConfig))
    assert (config.select, config.max_per_question, config.grader_error) == ("finished", 1, 0.1)
    assert (config.epochs, config.train_from, config.append_eos, config.max_new_tokens) == (2, "start", False, 99)
    assert (config.drop_duplicates, config.seed, config.num_samples, config.sft_size) == (False, 3, 8, 16)
    assert config.subset_seed == 3


def test_the_command_and_python_have_the_same_defaults():
    args = build_parser().parse_args(["ei", "--out", "x", "--profile", "tiny"])
    config = make_ei_config(**given_fields(args, ExpertIterationRunConfig))
    assert config == make_ei_config(profile="tiny") and config.temperature == 1.0 and config.epochs == 1
    start = config.start_config()
    assert (start.epochs, start.learning_rate) == (3, get_profile("tiny").learning_rate)


def test_a_configuration_survives_json():
    config = make_ei_config(profile="tiny", samples_per_round=(3, 4, 5), sft_size=8, test_checkpoint="last")
    assert ExpertIterationRunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
