"""``cs336-sft ei`` from the command line, with a random model."""

from __future__ import annotations

import json

import pytest

from cs336_sft.cli import build_parser, main
from cs336_sft.cli.ei import ei_config
from cs336_sft.data.gsm8k import write_problems
from cs336_sft.experiments.profiles import get_profile


@pytest.fixture
def command(tmp_path, problems, random_model, tokenizer):
    """Arguments of a small run; the model's folder, twelve problems to train on and three to validate on."""
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_problems(tmp_path / "train.jsonl", problems)
    write_problems(tmp_path / "validation.jsonl", problems[:3])
    arguments = ["ei", "--model", tmp_path / "model", "--data", tmp_path / "train.jsonl"]
    arguments += ["--eval-data", tmp_path / "validation.jsonl", "--eval-size", 3]
    arguments += ["--questions", 4, "--rollouts", 2, "--rounds", 1, "--limit", 8]
    return [str(argument) for argument in arguments]


def test_a_run_its_figure_and_a_control_like_it(command, tmp_path, capsys):
    human = [*command, "--control", "human", "--sft-size", "8", "--sft-epochs", "1", "--grader-error", "0.5"]
    human += ["--lr", "3e-5"]
    assert main([*human, "--out", str(tmp_path / "a"), "--plot", str(tmp_path / "a.png"), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [record["round"] for record in found["rounds"]] == [0, 1]
    assert found["rounds"][1]["kept_n"] == 4 and "round 1: validation accuracy" in captured.err
    assert "warning: 3 evaluation problems are among the training problems" in captured.err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a" / "ei" / "final" / "config.json").exists()
    configs = {part: json.loads((tmp_path / "a" / part / "config.json").read_text()) for part in ("start", "ei")}
    assert configs["ei"]["sft.learning_rate"] == 3e-5  # of the rounds alone
    assert configs["start"]["learning_rate"] == get_profile("tiny").learning_rate
    like = [*command, "--control", "random", "--skip", "8", "--like", str(tmp_path / "a" / "ei")]
    assert main([*like, "--out", str(tmp_path / "b")]) == 0
    assert "pass rate" in capsys.readouterr().out
    rounds = [json.loads(line) for line in (tmp_path / "b" / "rounds.jsonl").read_text().splitlines()]
    assert rounds[1]["kept_n"] == 4


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--temperature", "0"], "temperature is 0.0"),
        (["--add-format"], "judge='lenient'"),
        (["--like", "nowhere"], "holds no expert iteration"),
        (["--plot", "a.txt"], "is not a picture's name"),
        (["--questions", "400"], "400 problems asked for"),
        (["--optimizer", "keep", "--from", "start"], "set 'reset'"),
    ],
)
def test_mistakes_are_told_in_one_line(command, tmp_path, capsys, extra, message):
    assert main([*command, *extra, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and "Remedy" in error


def test_options_reach_the_configuration():
    arguments = "ei --out x --control one-per-question --grader-error 0.1 --epochs 2 --from start --no-eos --limit 99"
    args = build_parser().parse_args([*arguments.split(), "--truncated", "trim", "--keep-duplicates", "--seed", "3"])
    config = ei_config(args, get_profile("tiny"), gpu=False)
    assert (config.select, config.per_question_cap, config.grader_error) == ("correct", 1, 0.1)
    assert (config.sft.epochs, config.continue_from, config.append_eos, config.max_new_tokens) == (
        2,
        "start",
        False,
        99,
    )
    assert (config.truncated, config.drop_duplicates, config.seed) == ("trim", False, 3)
