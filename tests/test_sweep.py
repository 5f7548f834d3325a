"""Sweeps: which runs a grid means, that done runs are skipped, that one failure stops nothing, records read back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.cli import main
from cs336_sft.errors import ConfigError, DataError
from cs336_sft.experiments.grid import Grid, read_grid
from cs336_sft.experiments.record import (
    generations_path,
    read_record,
    read_recorded,
    recorded_generations,
    recorded_losses,
    sweep_frame,
    sweep_losses,
    thin,
    write_record,
)
from cs336_sft.experiments.settings import ALIASES, RunSettings, canonical, make_settings, run_name, setting_names
from cs336_sft.experiments.summary import mean_curves, plot_curves, plot_sweep, summarise, table_rows, varied_settings
from cs336_sft.experiments.sweep import run_sweep

ROOT = Path(__file__).resolve().parent.parent


# --- settings and names ---------------------------------------------------------------------------------------------


def test_flat_settings_are_the_inverse_of_make_settings() -> None:
    for flat in (
        {},
        {"profile": "smollm2", "batch": 16, "weights": "bfloat16", "test": "best", "train_size": "full"},
        {"method": "qlora", "lora_r": 4, "lora_targets": ["q_proj"], "order_seed": 3, "eval_every": [2, 4]},
        {"max_steps": 5, "warmup": 0.1, "schedule": "cosine", "eos": False, "micro_batch_tokens": 512},
    ):
        settings = make_settings(flat, gpu=False)
        through_json = json.loads(json.dumps(settings.to_flat()))
        assert make_settings(through_json, gpu=True) == settings, flat


@pytest.mark.parametrize(
    ("flat", "named"),
    [
        ({"learning_rat": 1e-4}, "learning_rat"),
        ({"lr": 1e-4, "learning_rate": 1e-4}, "given twice"),
        ({"lr": -1.0}, "learning_rate"),
        ({"train_size": 0}, "train_size"),
        ({"eos": 1}, "append_eos"),
        ({"method": "prefix"}, "method"),
        ({"method": "lora", "lora_r": 0}, "AdapterConfig.r"),
        ({"test": "yes"}, "test"),
        ({"profile": "huge"}, "huge"),
        ({"seed": 0}, "seed"),
    ],
)
def test_settings_out_of_range_are_named(flat, named) -> None:
    with pytest.raises(ConfigError, match=named):
        make_settings(flat)


def test_adapter_settings_are_without_effect_on_full_fine_tuning() -> None:
    assert make_settings({"lora_r": 4}) == make_settings({})
    assert make_settings({"method": "lora"}).sft.learning_rate == pytest.approx(
        10 * make_settings({}).sft.learning_rate
    )


_CHANGES = {
    "learning_rate": 3e-4,
    "batch_size": 4,
    "epochs": 1,
    "max_steps": 7,
    "train_size": "full",
    "append_eos": False,
    "subset_seed": 5,
    "order_seed": 5,
    "limit": 320,
    "eval_size": 64,
    "test": "best",
    "weights_dtype": "bfloat16",
    "schedule": "linear",
    "warmup": 3,
    "max_grad_norm": None,
    "betas": [0.9, 0.999],
    "eval_every": [4, 8],
    "method": "lora",
    "template": "r1_zero",
    "model": "x/y",
    "mixed_precision": "bf16",
    "normalization": "handout",
    "sampler": "vllm",
    "eval_batch_size": 7,
}


@pytest.mark.parametrize("name", sorted(_CHANGES))
def test_a_setting_that_differs_changes_the_name(name) -> None:
    base = make_settings({}, gpu=False)
    other = make_settings({name: _CHANGES[name]}, gpu=False)
    assert run_name(other) != run_name(base)
    assert all(c.isalnum() or c in "_.-" for c in run_name(other))


def test_a_name_keeps_numbers_readable_and_paths_short() -> None:
    name = run_name(make_settings({"limit": 320, "model": "runs/first/final", "eval_size": 64}, gpu=False))
    assert name.startswith("full_n512_b8_lr1e-4_ep3_eos_s0_limit320_neval64_model-final-")
    other = run_name(make_settings({"limit": 320, "model": "runs/second/final", "eval_size": 64}, gpu=False))
    assert name != other and len(name) == len(other) < 80


@given(st.dictionaries(st.sampled_from(sorted(_CHANGES)), st.booleans(), max_size=6))
def test_names_are_equal_only_for_equal_settings(chosen) -> None:
    names = [name for name, yes in chosen.items() if yes]
    first = make_settings({name: _CHANGES[name] for name in names}, gpu=False)
    second = make_settings({name: _CHANGES[name] for name in chosen}, gpu=False)
    assert (run_name(first) == run_name(second)) == (first == second)


def test_aliases_lead_to_settings() -> None:
    assert {canonical(name) for name in ALIASES} <= set(setting_names())
    assert set(RunSettings().to_flat()) <= set(setting_names())


# --- grids ----------------------------------------------------------------------------------------------------------


def test_a_grid_crosses_its_axes_seed_by_seed() -> None:
    runs = Grid({"train_size": 8}, {"lr": [1e-4, 3e-4], "eos": [True, False]}, seeds=(0, 2)).runs(gpu=False)
    seen = [(r.settings.subset_seed, r.settings.sft.learning_rate, r.settings.append_eos) for r in runs]
    assert seen == [(s, lr, eos) for s in (0, 2) for lr in (1e-4, 3e-4) for eos in (True, False)]
    assert all(r.settings.sft.seed == r.settings.subset_seed for r in runs)
    assert len({r.name for r in runs}) == 8


def test_subset_and_order_seeds_vary_apart() -> None:
    runs = Grid({}, {"subset_seed": [0, 1], "order_seed": [0, 1, 2]}).runs(gpu=False)
    assert [(r.settings.subset_seed, r.settings.sft.seed) for r in runs] == [(a, b) for a in (0, 1) for b in (0, 1, 2)]
    fixed = Grid({"subset_seed": 7}, seeds=(0, 1)).runs(gpu=False)
    assert [(r.settings.subset_seed, r.settings.sft.seed) for r in fixed] == [(7, 0), (7, 1)]


def test_blocks_follow_and_stand_over_the_file(tmp_path) -> None:
    path = tmp_path / "grid.json"
    content = {
        "settings": {"train_size": 16, "lr": 1e-4},
        "seeds": [0, 1],
        "blocks": [
            {"grid": {"batch": [4, 8]}},
            {"settings": {"learning_rate": 1e-3}, "grid": {"batch": [8]}, "seeds": [5]},
            {"grid": {"batch": [8]}},
        ],
    }
    path.write_text(json.dumps(content))
    grid = read_grid(path)
    seen = [(r.settings.sft.batch_size, r.settings.sft.learning_rate, r.settings.sft.seed) for r in grid.runs()]
    assert seen == [(4, 1e-4, 0), (8, 1e-4, 0), (4, 1e-4, 1), (8, 1e-4, 1), (8, 1e-3, 5)], "a run twice is made once"
    assert grid.name == "grid"
    fewer = grid.with_settings({"train_size": 2, "batch": 2}).runs()
    assert {(r.settings.train_size, r.settings.sft.batch_size) for r in fewer} == {(2, 2)}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[1]", "not an object"),
        ("{", "not JSON"),
        ('{"grids": {}}', "grids"),
        ('{"grid": {"lr": 1e-4}}', "lr"),
        ('{"grid": {"lr": []}}', "lr"),
        ('{"grid": {"rate": [1]}}', "rate"),
        ('{"seeds": [0.5]}', "seeds"),
        ('{"settings": {"lr": 1}, "grid": {"learning_rate": [1]}}', "learning_rate"),
        ('{"blocks": [{"grids": {}}]}', "block 0"),
    ],
)
def test_a_bad_grid_file_is_named_with_its_field(tmp_path, content, named) -> None:
    path = tmp_path / "grid.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=named) as caught:
        read_grid(path)
    assert "grid.json" in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "grids").glob("*.json")), ids=lambda path: path.stem)
def test_every_grid_of_the_repository_makes_runs_with_three_seeds(path) -> None:
    grid = read_grid(path)
    runs = grid.runs(gpu=True)
    assert len(runs) == len({run.name for run in runs}) > 3
    assert grid.name == path.stem and grid.description
    assert len({run.settings.sft.seed for run in runs}) == 3


# --- running --------------------------------------------------------------------------------------------------------


def test_runs_are_made_once_and_a_failure_stops_nothing(small_run, tmp_path) -> None:
    del small_run["train_size"]
    grid = Grid(small_run, {"lr": [1e-3, 1e-2], "train_size": [8, 500]})  # there are 12 problems
    told = []
    result = run_sweep(
        grid, tmp_path / "sweep", report=lambda status, done, total: told.append((status.status, done, total))
    )
    assert [status.status for status in result.statuses] == ["finished", "failed", "finished", "failed"]
    assert "500" in result.statuses[1].error and not result.complete
    assert [t[1:] for t in told] == [(k, 4) for k in range(1, 5)]
    for status in result.with_status("finished"):
        assert (tmp_path / "sweep" / status.name / "final" / "model.safetensors").is_file()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("metrics.jsonl")}
    again = run_sweep(grid, tmp_path / "sweep")
    assert [status.status for status in again.statuses] == ["skipped", "failed", "skipped", "failed"]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("metrics.jsonl")}


def test_the_model_before_training_is_measured_once(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments import run as sft_run

    measured = []
    original = sft_run.Measure.__call__

    def spy(self, problems, path):
        measured.append(path.name)
        return original(self, problems, path)

    monkeypatch.setattr(sft_run.Measure, "__call__", spy)
    grid = Grid(small_run, {"lr": [1e-3, 1e-2]})
    run_sweep(grid, tmp_path / "sweep")
    assert measured == ["step-000000.jsonl", "step-000002.jsonl", "step-000002.jsonl"]
    frame = sweep_frame(tmp_path / "sweep", grid)
    first = frame[frame["step"] == 0]
    assert first["avg_gen_len"].nunique() == 1 and len(first) == 2
    for run in grid.runs():
        assert (tmp_path / "sweep" / run.name / "generations" / "step-000000.jsonl").is_file()


def test_processes_give_the_numbers_of_one_process(small_run, tmp_path) -> None:
    grid = Grid(small_run, {"lr": [1e-3, 1e-2]})
    run_sweep(grid, tmp_path / "one")
    result = run_sweep(grid, tmp_path / "two", jobs=2, threads=1, keep_weights=False)
    assert result.complete
    columns = ["run", "step", "accuracy", "avg_gen_len", "entropy", "outcomes"]
    one, two = (sweep_frame(tmp_path / name, grid)[columns] for name in ("one", "two"))
    assert one.drop(columns="entropy").equals(two.drop(columns="entropy"))
    assert one["entropy"].tolist() == pytest.approx(two["entropy"].tolist())
    assert sweep_losses(tmp_path / "one", grid)["loss"].tolist() == pytest.approx(
        sweep_losses(tmp_path / "two", grid)["loss"].tolist()
    )
    assert not list((tmp_path / "two").rglob("*.safetensors")), "weights were dropped"
    assert run_sweep(grid, tmp_path / "two", jobs=2).with_status("skipped")


def test_a_process_that_dies_costs_its_run_alone(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments import sweep as module

    original = module._Worker.make
    killed = []

    def make(self, settings, run_dir, base_cache):
        if "lr1e-2" in run_dir.name and not killed:
            self._start()
            killed.append(self.process.pid)
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.poll = lambda: None  # not noticed before the job is handed over
        return original(self, settings, run_dir, base_cache)

    monkeypatch.setattr(module._Worker, "make", make)
    grid = Grid(small_run, {"lr": [1e-2, 1e-3, 2e-3]})
    result = run_sweep(grid, tmp_path / "sweep", jobs=2, threads=1)
    assert [status.status for status in result.statuses] == ["failed", "finished", "finished"]
    assert "signal 9" in result.statuses[0].error
    assert run_sweep(grid, tmp_path / "sweep").complete


def test_a_sweep_stops_when_its_time_is_up_and_goes_on_later(small_run, tmp_path) -> None:
    grid = Grid(small_run | {"max_steps": 100_000}, {"lr": [1e-4, 2e-4, 3e-4]})
    began = time.monotonic()
    result = run_sweep(grid, tmp_path / "sweep", jobs=2, threads=1, time_budget=9)
    assert time.monotonic() - began < 60
    statuses = [status.status for status in result.statuses]
    assert statuses == ["interrupted", "interrupted", "left"]
    folder = tmp_path / "sweep" / result.statuses[0].name
    assert list((folder / "checkpoints").glob("step-*")), "it goes on from here"


def test_bad_numbers_of_jobs_and_seconds_are_refused(tmp_path) -> None:
    for arguments in ({"jobs": 0}, {"jobs": 1, "time_budget": 5}, {"jobs": 2, "time_budget": 0}):
        with pytest.raises(ConfigError):
            run_sweep(Grid(), tmp_path, **arguments)


def test_the_best_weights_are_those_measured_on_test(small_run, tmp_path, monkeypatch) -> None:
    """The accuracy is made up: best at step 2 of 4, equal at step 3; the test sees the weights of step 2."""
    import torch

    from cs336_sft.experiments import run as sft_run

    scores, seen = iter([0.0, 0.1, 0.7, 0.7, 0.2, 0.5]), []

    def measure(self, problems, path):
        seen.append((path.stem, sum(p.double().sum().item() for p in self.model.parameters())))
        return {"accuracy": next(scores)}

    monkeypatch.setattr(sft_run.Measure, "__call__", measure)
    settings = make_settings(small_run | {"max_steps": 4, "eval_every": 1, "lr": 1e-2, "test": "best"})
    outcome = sft_run.run_sft(settings, tmp_path / "run")
    weights = dict(seen)
    assert outcome.test["step"] == 2 and outcome.test["accuracy"] == 0.5
    assert weights["test"] == weights["step-000002"] != weights["step-000003"]
    assert torch.is_tensor(next(iter(sft_run.checkpoints.load_file(tmp_path / "run/best/model.safetensors").values())))
    assert sft_run.run_sft(settings, tmp_path / "run").test == outcome.test, "the test split is measured once"
    assert len(seen) == 6


def test_a_finished_run_is_read_without_a_sampler(small_run, tmp_path, monkeypatch) -> None:
    """To start an engine takes a minute and a third of the card."""
    from cs336_sft.experiments import run as sft_run

    settings = make_settings(small_run | {"max_steps": 1})
    first = sft_run.run_sft(settings, tmp_path / "run")

    def unwanted(*arguments, **options):
        raise AssertionError("a sampler for a run that is only read")

    monkeypatch.setattr(sft_run, "make_sampler", unwanted)
    assert sft_run.run_sft(settings, tmp_path / "run") == first
    with pytest.raises(AssertionError):  # the test split is still to be measured
        sft_run.run_sft(make_settings(small_run | {"max_steps": 1, "test": "last"}), tmp_path / "run")


# --- records and summaries ------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(small_run, tmp_path):
    grid = Grid(small_run, {"lr": [1e-3, 1e-2]}, seeds=(0, 1), name="lr")
    folder = tmp_path / "sweep"
    run_sweep(grid, folder)
    path = tmp_path / "records" / "lr.json"
    write_record(path, grid, folder, generations="first-seed")
    return grid, folder, path


def test_a_record_says_what_the_run_directories_say(recorded) -> None:
    grid, folder, path = recorded
    live, read = sweep_frame(folder, grid), read_recorded(path)
    assert list(live.columns) == list(read.columns) and len(read) == 8
    for column in ("run", "step", "accuracy", "entropy", "outcomes", "learning_rate", "seed", "last", "limit"):
        assert live[column].tolist() == read[column].tolist(), column
    assert set(map(len, read["outcomes"])) == {3}
    assert read.attrs["record"]["grid"]["grid"] == {"lr": [1e-3, 1e-2]}
    assert {"torch", "transformers", "python"} <= set(read.attrs["record"]["versions"])
    assert recorded_losses(path)["loss"].tolist() == sweep_losses(folder, grid)["loss"].tolist()
    content = read_record(path)
    assert content["device"] == "cpu" and content["runs_planned"] == 4 and content["failed"] == []
    assert all(len(run["lengths"]) == 3 for run in content["runs"])
    assert path.read_text().count("\n") < 80, "a line a run, not a line a number"


def test_recorded_generations_can_be_cut_at_any_token(recorded) -> None:
    from cs336_sft.evaluation.evaluate import read_generations

    grid, folder, path = recorded
    lines = recorded_generations(path)
    assert {line["run"] for line in lines} == {run.name for run in grid.runs() if run.settings.sft.seed == 0}
    stored = read_generations(folder / lines[0]["run"] / "generations" / "step-000002.jsonl")
    for line, item in zip(lines, stored, strict=False):
        assert (line["text"], line["reward"]) == (item.generation.text, item.reward)
        assert line["tokens"] == len(line["token_ends"]) == len(item.generation.token_ids)
        assert sum(line["token_ends"]) == len(line["text"]) or "\ufffd" in line["text"]
        assert "question" not in line
    generations_path(path).unlink()
    with pytest.raises(DataError, match="does not exist"):
        recorded_generations(path)


def test_other_files_are_no_records(tmp_path) -> None:
    path = tmp_path / "x.json"
    for content, named in (("{}", "no record"), ("[", "not JSON"), ("[1]", "no record")):
        path.write_text(content)
        with pytest.raises(DataError, match=named):
            read_recorded(path)
    with pytest.raises(DataError, match="can't be read"):
        read_recorded(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="no finished run"):
        write_record(path, Grid(), tmp_path)


@given(st.integers(1, 300), st.integers(1, 70))
def test_thinned_curves_keep_the_mean(steps, points) -> None:
    curve = [{"step": step, "loss": float(step % 7)} for step in range(1, steps + 1)]
    thinned = thin(curve, points)
    ends = thinned["step"]
    assert len(ends) == min(steps, points) and ends[-1] == steps and ends == sorted(set(ends))
    widths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    total = sum(width * loss for width, loss in zip(widths, thinned["loss"], strict=True))
    assert total == pytest.approx(sum(record["loss"] for record in curve), rel=1e-4, abs=1e-3)


def made_up_frame():
    import pandas

    rows = []
    for lr, base in ((1e-4, 0.5), (3e-4, 0.7)):
        for seed in range(3):
            for step, gain in ((0, -0.2), (8, 0.0)):
                value = base + gain + 0.01 * seed
                about = {"learning_rate": lr, "order_seed": seed, "subset_seed": seed, "seed": seed, "limit": 160}
                rows.append({**about, "step": step, "last": step == 8, "accuracy": value, "avg_gen_len": 100 * value})
    return pandas.DataFrame(rows)


def test_a_summary_averages_over_seeds_at_the_last_evaluation() -> None:
    from cs336_sft.evaluation.intervals import mean_interval

    frame = made_up_frame()
    assert varied_settings(frame) == ["learning_rate"]
    summary = summarise(frame, metrics=("accuracy", "avg_gen_len"))
    expected = mean_interval([0.70, 0.71, 0.72])
    row = summary.iloc[1]
    assert row["runs"] == 3 and row["learning_rate"] == 3e-4
    assert [row["accuracy"], row["accuracy_low"], row["accuracy_high"]] == pytest.approx(
        [expected.value, expected.low, expected.high]
    )
    header, rows = table_rows(summary, ("accuracy", "avg_gen_len"))
    assert header == ["learning_rate", "runs", "accuracy", "avg_gen_len"] and rows[0][0] == "1e-4"
    with pytest.raises(DataError, match="accuracy_lenient"):
        summarise(frame)


def test_curves_are_means_over_seeds() -> None:
    curves = mean_curves(made_up_frame(), "learning_rate", ("accuracy",))
    assert list(curves) == ["learning rate 1e-4", "learning rate 3e-4"]
    assert [(r["step"], round(r["accuracy"], 3)) for r in curves["learning rate 1e-4"]] == [(0, 0.31), (8, 0.51)]


def test_the_rank_is_no_axis_because_full_fine_tuning_has_none() -> None:
    import pandas

    frame = pandas.DataFrame({"method": ["full", "lora"], "lora_r": [float("nan"), 16], "max_steps": [None, 96]})
    assert varied_settings(frame) == ["max_steps", "method"]


def test_figures_show_every_value_with_its_interval() -> None:
    frame = made_up_frame()
    figure = plot_sweep(frame, "learning_rate", metrics=("accuracy", "avg_gen_len"))
    assert [panel.get_ylabel() for panel in figure.axes] == ["accuracy (format demanded)", "mean length (tokens)"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1e-4", "3e-4"]
    words = frame.assign(train_size=[128] * 6 + ["full"] * 6)
    figure = plot_sweep(words, "train_size", hue="limit", metrics=("accuracy",))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["128", "full"]
    assert len(plot_curves(frame, "learning_rate", metrics=("accuracy",)).axes) == 1


# --- the command ----------------------------------------------------------------------------------------------------


def options(small_run: dict, out: Path) -> list[str]:
    argv = ["sweep", "--out", str(out), "--model", small_run["model"], "--data", small_run["data"]]
    for name in ("eval_data", "train_size", "batch", "max_steps", "eval_size", "limit"):
        argv += ["--set", f"{name}={small_run[name]}"]
    return argv


def test_the_command_lists_runs_makes_them_and_records(small_run, tmp_path, capsys) -> None:
    out, record = tmp_path / "sweep", tmp_path / "record.json"
    argv = [*options(small_run, out), "--grid", "lr=1e-3,1e-2", "--seeds", "0,1", "--set", "eval_every=ends"]
    argv[argv.index("eval_every=ends")] = "eval_every=null"
    assert main([*argv, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("to do") == 4 and "4 runs, 0 done" in shown and not out.exists()
    assert main([*argv, "--record", str(record)]) == 0
    captured = capsys.readouterr()
    assert "[4/4]" in captured.err and "4 finished" in captured.out
    lines = captured.out.splitlines()
    assert lines[0].split()[:2] == ["learning_rate", "runs"] and lines[1].split()[:2] == ["1e-3", "2"]
    assert len(read_recorded(record)) == 8
    for name in ("summary.csv", "summary.png", "curves.png"):
        assert (out / name).is_file()
    assert main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["runs"]["skipped"] == 4 and len(report["summary"]) == 2
    assert main([*argv, "--dry-run", "--json"]) == 0
    assert all(run["done"] for run in json.loads(capsys.readouterr().out)["runs"])


def test_the_command_exits_with_1_where_a_run_failed(small_run, tmp_path, capsys) -> None:
    argv = options(small_run | {"train_size": 500}, tmp_path / "sweep")
    assert main([*argv, "--grid", "lr=1e-3"]) == 1
    assert "500 problems asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--grid", "lr"], "NAME=VALUE"),
        (["--grid", "rate=1"], "rate"),
        (["--grid", "lr=1e-3", "--grid", "lr=1e-4"], "twice"),
        (["--generations", "all"], "--record"),
        (["nowhere.json"], "nowhere.json"),
        (["--time-budget", "5"], "jobs"),
    ],
)
def test_mistakes_are_told_in_one_line(small_run, tmp_path, capsys, more, named) -> None:
    assert main([*options(small_run, tmp_path / "sweep"), *more]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0] and "Remedy" in lines[0]


def test_ctrl_c_stops_the_processes_and_the_sweep_goes_on(small_run, tmp_path) -> None:
    out = tmp_path / "sweep"
    argv = [*options(small_run | {"max_steps": 100_000}, out), "--grid", "lr=1e-4,2e-4", "--set", "eval_every=null"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "cs336_sft", *argv, "--jobs", "2"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.count("interrupted") == 2
    assert len({path.parent for path in out.glob("*/checkpoints/step-*")}) == 2
