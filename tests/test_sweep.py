"""Sweeps: which runs a grid means, that done runs are skipped, that one failure stops nothing, records read back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.cli import main
from cs336_sft.errors import ConfigError, CourseError, DataError
from cs336_sft.experiments.config import make_config, run_name
from cs336_sft.experiments.grid import Grid, read_grid
from cs336_sft.experiments.record import (
    answer_positions,
    generations_path,
    read_recorded,
    read_sweep_record,
    recorded_generations,
    recorded_losses,
    sweep_frame,
    thin,
    token_ends,
    write_record,
)
from cs336_sft.experiments.summary import mean_curves, plot_curves, plot_sweep, summarise, table_rows, varied_settings
from cs336_sft.experiments.sweep import run_sweep
from cs336_sft.generation.response_text import decode_response
from cs336_sft.model.loading import load_tokenizer
from cs336_sft.model.lora import AdapterConfig
from cs336_sft.records import Generation, Graded, Problem
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.result import load_result

ROOT = Path(__file__).resolve().parent.parent


# --- settings and names ---------------------------------------------------------------------------------------------


def test_a_configuration_survives_json() -> None:
    for fields in (
        {},
        {"profile": "smollm2", "batch_size": 16, "weights_dtype": "bfloat16", "test_checkpoint": "best"},
        {"method": "qlora", "lora_r": 4, "lora_targets": ["q_proj"], "seed": 3, "eval_every": [2, 4]},
        {"max_steps": 5, "warmup": 0.1, "schedule": "cosine", "append_eos": False, "train_size": "full"},
    ):
        config = make_config(**fields, gpu=False)
        for content in (config.to_dict(), config.settings()):
            assert make_config(**json.loads(json.dumps(content)), gpu=True) == config, fields


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"learning_rat": 1e-4}, "'learning_rat'. Remedy: write 'learning_rate'"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"train_size": 0}, "RunConfig.train_size"),
        ({"append_eos": 1}, "append_eos"),
        ({"method": "prefix"}, "method"),
        ({"method": "lora", "lora_r": 0}, "RunConfig.lora_r"),
        ({"method": "lora", "lora_dropout": 1.0}, "RunConfig.lora_dropout"),
        ({"test_checkpoint": "yes"}, "test_checkpoint"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"sampler": "tgi"}, "sampler"),
        ({"profile": "huge"}, "huge"),
        ({"seed": -1}, "seed"),
    ],
)
def test_fields_out_of_range_are_named(fields, named) -> None:
    with pytest.raises(ConfigError, match=named):
        make_config(**fields)


def test_the_profile_gives_defaults_and_anything_given_replaces_them() -> None:
    config = make_config(profile="smollm2", gpu=True)
    assert (config.max_new_tokens, config.mixed_precision, config.batch_size) == (320, "bf16", 8)
    other = make_config(profile="smollm2", gpu=True, max_new_tokens=64, mixed_precision="no", batch_size=2)
    assert (other.max_new_tokens, other.mixed_precision, other.batch_size, other.micro_batch_size) == (64, "no", 2, 2)
    assert make_config(profile="smollm2", gpu=False).mixed_precision == "no"
    assert make_config(seed=3).subset_seed == 3 and make_config(seed=3, subset_seed=1).subset_seed == 1


def test_adapter_fields_are_without_effect_on_full_fine_tuning() -> None:
    assert make_config(lora_r=4).settings() == make_config().settings() == make_config(progress=True).settings()
    assert make_config(lora_r=4).adapter is None
    assert make_config(method="qlora", lora_r=4).adapter == AdapterConfig(r=4, quantize=True)
    assert make_config(method="lora").learning_rate == pytest.approx(10 * make_config().learning_rate)


def test_the_training_loop_sees_its_own_fields_alone() -> None:
    """What it stores to detect another configuration must not hold paths or sizes of the evaluation."""
    config = make_config(learning_rate=3e-4, data="x.jsonl", seed=4)
    assert type(config.training()) is SFTConfig
    assert (config.training().learning_rate, config.training().seed) == (3e-4, 4)


_CHANGES = {
    "learning_rate": 3e-4,
    "batch_size": 4,
    "epochs": 1,
    "max_steps": 7,
    "train_size": "full",
    "append_eos": False,
    "subset_seed": 5,
    "seed": 5,
    "max_new_tokens": 320,
    "eval_size": 64,
    "test_checkpoint": "best",
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
    "gen_batch_size": 7,
}


@pytest.mark.parametrize("name", sorted(_CHANGES))
def test_a_setting_that_differs_changes_the_name(name) -> None:
    base = make_config(gpu=False)
    other = make_config(**{name: _CHANGES[name]}, gpu=False)
    assert run_name(other) != run_name(base)
    assert all(c.isalnum() or c in "_.-" for c in run_name(other))


def test_a_name_keeps_numbers_readable_and_paths_short() -> None:
    name = run_name(make_config(max_new_tokens=320, model="runs/first/final", eval_size=64, gpu=False))
    assert name.startswith("full_n512_b8_lr1e-4_ep3_eos_s0_model-final-")
    assert name.endswith("_eval-size64_max-new-tokens320")
    other = run_name(make_config(max_new_tokens=320, model="runs/second/final", eval_size=64, gpu=False))
    assert name != other and len(name) == len(other) < 90


@given(st.dictionaries(st.sampled_from(sorted(_CHANGES)), st.booleans(), max_size=6))
def test_names_are_equal_only_for_equal_settings(chosen) -> None:
    names = [name for name, yes in chosen.items() if yes]
    first = make_config(**{name: _CHANGES[name] for name in names}, gpu=False)
    second = make_config(**{name: _CHANGES[name] for name in chosen}, gpu=False)
    if first.max_steps is not None:  # then the number of epochs says nothing
        second = replace(second, epochs=first.epochs)
    assert (run_name(first) == run_name(second)) == (first == second)


# --- grids ----------------------------------------------------------------------------------------------------------


def test_a_grid_crosses_its_axes_seed_by_seed() -> None:
    runs = Grid({"train_size": 8}, {"learning_rate": [1e-4, 3e-4], "append_eos": [True, False]}, seeds=(0, 2)).runs(
        gpu=False
    )
    seen = [(r.config.subset_seed, r.config.learning_rate, r.config.append_eos) for r in runs]
    assert seen == [(s, lr, eos) for s in (0, 2) for lr in (1e-4, 3e-4) for eos in (True, False)]
    assert all(r.config.seed == r.config.subset_seed for r in runs)
    assert len({r.name for r in runs}) == 8


def test_subset_and_order_seeds_vary_apart() -> None:
    runs = Grid({}, {"subset_seed": [0, 1], "seed": [0, 1, 2]}).runs(gpu=False)
    assert [(r.config.subset_seed, r.config.seed) for r in runs] == [(a, b) for a in (0, 1) for b in (0, 1, 2)]
    fixed = Grid({"subset_seed": 7}, seeds=(0, 1)).runs(gpu=False)
    assert [(r.config.subset_seed, r.config.seed) for r in fixed] == [(7, 0), (7, 1)]


def test_blocks_follow_and_stand_over_the_file(tmp_path) -> None:
    path = tmp_path / "grid.json"
    content = {
        "settings": {"train_size": 16, "learning_rate": 1e-4},
        "seeds": [0, 1],
        "blocks": [
            {"grid": {"batch_size": [4, 8]}},
            {"settings": {"learning_rate": 1e-3}, "grid": {"batch_size": [8]}, "seeds": [5]},
            {"grid": {"batch_size": [8]}},
        ],
    }
    path.write_text(json.dumps(content))
    grid = read_grid(path)
    seen = [(r.config.batch_size, r.config.learning_rate, r.config.seed) for r in grid.runs()]
    assert seen == [(4, 1e-4, 0), (8, 1e-4, 0), (4, 1e-4, 1), (8, 1e-4, 1), (8, 1e-3, 5)], "a run twice is made once"
    assert grid.name == "grid"
    fewer = grid.with_settings({"train_size": 2, "batch_size": 2}).runs()
    assert {(r.config.train_size, r.config.batch_size) for r in fewer} == {(2, 2)}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        ('{"grids": {}}', "grids"),
        ('{"grid": {"learning_rate": 1e-4}}', "learning_rate"),
        ('{"grid": {"learning_rate": []}}', "learning_rate"),
        ('{"grid": {"rate": [1]}}', "rate"),
        ('{"seeds": [0.5]}', "seeds"),
        ('{"settings": {"learning_rate": 1}, "grid": {"learning_rate": [1]}}', "learning_rate"),
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
    assert len({run.config.seed for run in runs}) == 3


# --- running --------------------------------------------------------------------------------------------------------


def test_runs_are_made_once_and_a_failure_stops_nothing(small_run, tmp_path) -> None:
    del small_run["train_size"]
    grid = Grid(small_run, {"learning_rate": [1e-3, 1e-2], "train_size": [8, 500]})  # there are 12 problems
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
    original = sft_run.Evaluator.measure

    def spy(self, problems, examples, path):
        measured.append(path.name)
        return original(self, problems, examples, path)

    monkeypatch.setattr(sft_run.Evaluator, "measure", spy)
    grid = Grid(small_run, {"learning_rate": [1e-3, 1e-2]})
    run_sweep(grid, tmp_path / "sweep")
    assert measured == ["step-000000.jsonl", "step-000002.jsonl", "step-000002.jsonl"]
    frame = sweep_frame(tmp_path / "sweep", grid)
    first = frame[frame["step"] == 0]
    assert first["avg_gen_len"].nunique() == 1 and len(first) == 2
    for run in grid.runs():
        assert (tmp_path / "sweep" / run.name / "generations" / "step-000000.jsonl").is_file()


def test_processes_give_the_numbers_of_one_process(small_run, tmp_path) -> None:
    grid = Grid(small_run, {"learning_rate": [1e-3, 1e-2]})
    run_sweep(grid, tmp_path / "one")
    result = run_sweep(grid, tmp_path / "two", jobs=2, threads=1, keep_weights=False)
    assert result.complete
    columns = ["run", "step", "accuracy", "avg_gen_len", "entropy", "outcomes"]
    one, two = (sweep_frame(tmp_path / name, grid)[columns] for name in ("one", "two"))
    assert one.drop(columns="entropy").equals(two.drop(columns="entropy"))
    assert one["entropy"].tolist() == pytest.approx(two["entropy"].tolist())
    for run in grid.runs():
        one, two = (load_result(tmp_path / name / run.name).metrics for name in ("one", "two"))
        assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two])
    assert not list((tmp_path / "two").rglob("*.safetensors")), "weights were dropped"
    assert run_sweep(grid, tmp_path / "two", jobs=2).with_status("skipped")


@pytest.mark.parametrize(
    ("named", "cards"), [(None, ["0", "1"]), ("3,5", ["3", "5"]), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]), ("", [])]
)
def test_processes_share_out_the_cards(tmp_path, monkeypatch, named, cards) -> None:
    """Each started process sees one card; with more processes than cards they go round."""
    import torch

    from cs336_sft.experiments import sweep as module

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    started = {}

    def start(command, *, env, stderr, **settings):
        started[Path(stderr.name).name] = env.get("CUDA_VISIBLE_DEVICES")
        raise CourseError("not started", "none")

    monkeypatch.setattr(module.subprocess, "Popen", start)

    def started_all(runs, workers, note, time_budget):
        for worker in workers:
            with pytest.raises(CourseError):
                worker.make(runs[0])

    monkeypatch.setattr(module, "_run_in_processes", started_all)
    run_sweep(Grid({}, {"learning_rate": [1e-4, 2e-4, 3e-4]}), tmp_path, jobs=3)
    expected = [*cards, cards[0]] if cards else [named] * 3
    assert [started[f".worker-{number}.log"] for number in range(3)] == expected


def test_one_engine_makes_all_runs_of_a_model(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments import run as sft_run
    from cs336_sft.generation import make_sampler as factory
    from cs336_sft.generation.hf_sampler import HFSampler

    events = []

    class Engine:
        def __init__(self, source) -> None:
            self.source, self.inner = source, None
            events.append("start")

        def update_weights(self, model) -> None:
            self.inner = HFSampler(model, load_tokenizer(self.source))

        def generate(self, prompts, sampling):
            return self.inner.generate(prompts, sampling)

        def close(self) -> None:
            events.append("close")

    monkeypatch.setattr(factory, "make_sampler", lambda kind, model, tokenizer, *, source, vllm: Engine(source))
    monkeypatch.setattr(sft_run, "make_sampler", None)  # no run starts one of its own
    copy = tmp_path / "copy"
    shutil.copytree(small_run["model"], copy)
    settings = {name: value for name, value in small_run.items() if name not in ("train_size", "model")}
    models = {"model": [small_run["model"], str(copy)]}
    grid = Grid(settings | {"sampler": "vllm"}, {**models, "train_size": [8, 500]})  # there are 12 problems
    result = run_sweep(grid, tmp_path / "sweep")
    assert [status.status for status in result.statuses] == ["finished", "failed", "finished", "failed"]
    assert events == ["start", "close", "start", "close"], "a failure may be the engine's, so it ends it"
    events.clear()
    run_sweep(Grid(settings | {"sampler": "vllm", "train_size": 8}, models | {"seed": [1, 2]}), tmp_path / "sweep")
    assert events == ["start", "close", "start", "close"]


@pytest.mark.parametrize("test_checkpoint", [None, "best", "last"])
def test_runs_without_weights_write_none(small_run, tmp_path, monkeypatch, test_checkpoint) -> None:
    """Disks fill up at 18 GB a checkpoint of a 1.5B model, even if each is removed afterwards."""
    from cs336_sft.training import checkpoints

    written = []
    original = checkpoints.save_checkpoint
    monkeypatch.setattr(checkpoints, "save_checkpoint", lambda *a: written.append(a[1]) or original(*a))
    grid = Grid(small_run | {"test_checkpoint": test_checkpoint}, {"learning_rate": [1e-3]})
    assert run_sweep(grid, tmp_path / "sweep", keep_weights=False).complete
    # The test of the last weights may have to be made again: only it needs them.
    assert bool(written) == (test_checkpoint == "last")
    assert not list((tmp_path / "sweep").rglob("*.safetensors"))
    assert run_sweep(grid, tmp_path / "sweep", keep_weights=False).with_status("skipped")
    (run,) = grid.runs()
    (tmp_path / "sweep" / run.name / "settings.json").unlink()  # killed just before its last file was written
    if test_checkpoint is None:
        assert run_sweep(grid, tmp_path / "sweep", keep_weights=False).with_status("finished")


def test_an_interrupted_run_without_weights_goes_on(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments import run as sft_run

    config = make_config(**small_run | {"max_steps": 4, "eval_every": 1, "checkpoint_every": 1})
    whole = sft_run.run_sft(config, tmp_path / "whole").result
    original = sft_run.Evaluator.measure

    def stop(self, problems, examples, path):
        if path.stem == "step-000002":
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, problems, examples, path)

    with monkeypatch.context() as patch:
        patch.setattr(sft_run.Evaluator, "measure", stop)
        assert sft_run.run_sft(config, tmp_path / "run", keep_weights=False).result.interrupted
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")] == ["step-00000002"]
    result = sft_run.run_sft(config, tmp_path / "run", keep_weights=False).result
    assert [step["loss"] for step in result.metrics] == [step["loss"] for step in whole.metrics]
    assert not (tmp_path / "run" / "final").exists()


def test_a_process_that_dies_costs_its_run_alone(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments import sweep as module

    original = module._Worker.make
    killed = []

    def make(self, run):
        if "lr1e-2" in run.name and not killed:
            self._start()
            killed.append(self.process.pid)
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.poll = lambda: None  # not noticed before the job is handed over
        return original(self, run)

    monkeypatch.setattr(module._Worker, "make", make)
    grid = Grid(small_run, {"learning_rate": [1e-2, 1e-3, 2e-3]})
    result = run_sweep(grid, tmp_path / "sweep", jobs=2, threads=1)
    assert [status.status for status in result.statuses] == ["failed", "finished", "finished"]
    assert "signal 9" in result.statuses[0].error
    assert run_sweep(grid, tmp_path / "sweep").complete


def test_a_sweep_stops_when_its_time_is_up_and_goes_on_later(small_run, tmp_path, monkeypatch) -> None:
    """The clock jumps when both processes have begun to train, however long they took to start."""
    from types import SimpleNamespace

    from cs336_sft.experiments import sweep as module

    folder = tmp_path / "sweep"

    def monotonic() -> float:
        return 1000.0 if len(list(folder.glob("*/metrics.jsonl"))) == 2 else 0.0

    clock = SimpleNamespace(monotonic=monotonic, sleep=time.sleep, perf_counter=time.perf_counter)
    monkeypatch.setattr(module, "time", clock)
    grid = Grid(small_run | {"max_steps": 100_000}, {"learning_rate": [1e-4, 2e-4, 3e-4]})
    result = run_sweep(grid, folder, jobs=2, threads=1, time_budget=9)
    assert [status.status for status in result.statuses] == ["interrupted", "interrupted", "left"]
    assert list((folder / result.statuses[0].name / "checkpoints").glob("step-*")), "it goes on from here"


def test_bad_numbers_of_jobs_and_seconds_are_refused(tmp_path) -> None:
    for arguments in ({"jobs": 0}, {"jobs": 1, "time_budget": 5}, {"jobs": 2, "time_budget": 0}):
        with pytest.raises(ConfigError):
            run_sweep(Grid(), tmp_path, **arguments)


def with_accuracies(monkeypatch, accuracies: list[float]) -> list[tuple[str, float]]:
    """Make the evaluations give these accuracies; returns (file, sum of the weights) of each evaluation."""
    from cs336_sft.experiments import run as sft_run

    scores, seen = iter(accuracies), []

    def measure(self, problems, examples, path):
        seen.append((path.stem, sum(p.double().sum().item() for p in self.model.parameters())))
        return {"accuracy": next(scores)}

    monkeypatch.setattr(sft_run.Evaluator, "measure", measure)
    return seen


@pytest.mark.parametrize(
    ("accuracies", "best"), [([0.0, 0.1, 0.7, 0.7, 0.2, 0.5], 2), ([0.9, 0.1, 0.7, 0.9, 0.2, 0.5], 0)]
)
def test_the_best_weights_are_those_measured_on_test(small_run, tmp_path, monkeypatch, accuracies, best) -> None:
    """The test sees the weights of the first of the best evaluations, step 0 included."""
    from cs336_sft.experiments.run import run_sft

    seen = with_accuracies(monkeypatch, accuracies)
    more = {"max_steps": 4, "eval_every": 1, "learning_rate": 1e-2, "test_checkpoint": "best"}
    config = make_config(**small_run | more)
    outcome = run_sft(config, tmp_path / "run")
    weights = dict(seen)
    assert outcome.test["step"] == best and outcome.test["accuracy"] == accuracies[-1]
    assert weights["test"] == weights[f"step-{best:06d}"] != weights["step-000003"]
    assert [path.name for path in (tmp_path / "run" / "best").glob("step-*")] == [f"step-{best:08d}.safetensors"]
    assert run_sft(config, tmp_path / "run").test == outcome.test, "the test split is measured once"
    assert len(seen) == 6


@pytest.mark.parametrize("killed_in", ["save_trained", "write_json", "unlink"])
def test_best_weights_survive_a_kill_at_any_moment(random_model, tmp_path, monkeypatch, killed_in) -> None:
    import torch

    from cs336_sft.experiments import run as sft_run

    best = sft_run.BestWeights(tmp_path / "best", random_model)
    best.offer(1, 0.5)
    first = sum(p.double().sum().item() for p in random_model.parameters())
    with torch.no_grad():
        next(random_model.parameters()).add_(1.0)
    second = sum(p.double().sum().item() for p in random_model.parameters())

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    place = {"save_trained": sft_run.checkpoints, "write_json": sft_run, "unlink": Path}[killed_in]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(place, killed_in, killed)
        best.offer(2, 0.6)
    step = sft_run.BestWeights(tmp_path / "best", random_model).load()
    assert step == (2 if killed_in == "unlink" else 1)
    now = sum(p.double().sum().item() for p in random_model.parameters())
    assert now == (second if step == 2 else first)


def test_validation_problems_are_tokenized_once(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments import evaluator
    from cs336_sft.experiments import run as sft_run

    calls = []
    original = evaluator.make_examples
    monkeypatch.setattr(evaluator, "make_examples", lambda *a, **k: calls.append(len(a[0])) or original(*a, **k))
    sft_run.run_sft(make_config(**small_run | {"max_steps": 3, "eval_every": 1}), tmp_path / "run")
    assert calls == [3]


def test_another_model_under_the_same_path_is_another_model(small_run, tmp_path, random_model) -> None:
    """Neither the shared evaluation before training nor a finished run may be taken for the new model's."""
    import torch

    from cs336_sft.experiments.run import is_complete, run_sft

    config, cache = make_config(**small_run | {"max_steps": 1}), tmp_path / "cache"

    def first_loss(name: str, base_cache) -> float:
        return run_sft(config, tmp_path / name, base_cache=base_cache).result.evaluations[0]["validation_loss"]

    before = first_loss("before", cache)
    assert is_complete(tmp_path / "before", config)
    with torch.no_grad():
        for parameter in random_model.parameters():
            parameter.mul_(1.5)
    random_model.save_pretrained(small_run["model"])
    after = first_loss("after", cache)
    assert after != before and after == first_loss("uncached", None) == first_loss("cached", cache)
    assert not is_complete(tmp_path / "before", config)


def test_reading_a_finished_run_again_keeps_its_settings(small_run, tmp_path, monkeypatch) -> None:
    from cs336_sft.experiments.run import run_sft

    config, path = make_config(**small_run | {"max_steps": 1}), tmp_path / "run" / "settings.json"
    run_sft(config, tmp_path / "run")
    stored = json.loads(path.read_text()) | {"peak_memory_bytes": 30_000_000_000}
    path.write_text(json.dumps(stored))
    run_sft(config, tmp_path / "run")
    assert json.loads(path.read_text()) == stored


def test_a_finished_run_is_read_without_a_sampler(small_run, tmp_path, monkeypatch) -> None:
    """To start an engine takes a minute and a third of the card."""
    from cs336_sft.experiments import run as sft_run

    settings = make_config(**small_run | {"max_steps": 1})
    first = sft_run.run_sft(settings, tmp_path / "run")

    def unwanted(*arguments, **options):
        raise AssertionError("a sampler for a run that is only read")

    monkeypatch.setattr(sft_run, "make_sampler", unwanted)
    assert sft_run.run_sft(settings, tmp_path / "run") == first
    with pytest.raises(AssertionError):  # the test split is still to be measured
        sft_run.run_sft(make_config(**small_run | {"max_steps": 1, "test_checkpoint": "last"}), tmp_path / "run")


# --- records and summaries ------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(small_run, tmp_path):
    grid = Grid(small_run, {"learning_rate": [1e-3, 1e-2]}, seeds=(0, 1), name="learning_rate")
    folder = tmp_path / "sweep"
    run_sweep(grid, folder)
    path = tmp_path / "records" / "lr.json"
    write_record(path, grid, folder, generations=True)
    return grid, folder, path


def test_a_record_says_what_the_run_directories_say(recorded) -> None:
    grid, folder, path = recorded
    live, read = sweep_frame(folder, grid), read_recorded(path)
    assert list(live.columns) == list(read.columns) and len(read) == 8
    for column in ("run", "step", "accuracy", "entropy", "outcomes", "learning_rate", "seed", "last", "max_new_tokens"):
        assert live[column].tolist() == read[column].tolist(), column
    assert set(map(len, read["outcomes"])) == {3}
    assert read.attrs["record"]["grid"]["grid"] == {"learning_rate": [1e-3, 1e-2]}
    assert {"torch", "transformers", "python"} <= set(read.attrs["record"]["versions"])
    losses = [r["loss"] for name in read["run"].unique() for r in load_result(folder / name).metrics]
    assert recorded_losses(path)["loss"].tolist() == pytest.approx(losses, abs=1e-3)
    content = read_sweep_record(path)
    assert content["device"] == "cpu" and content["runs_planned"] == 4 and content["failed"] == []
    assert all(len(run["lengths"]) == 3 for run in content["runs"])
    for run in content["runs"]:
        assert set(run["positions"]) == set(run["outcomes"]) == {"0", "2"}
        assert [length for length, _ in run["positions"]["2"]] == run["lengths"]
    assert path.read_text().count("\n") < 80, "a line a run, not a line a number"


def test_recorded_generations_can_be_cut_at_any_token(recorded) -> None:
    from cs336_sft.evaluation.generations_file import read_generations

    grid, folder, path = recorded
    lines = recorded_generations(path)
    assert {line["run"] for line in lines} == {run.name for run in grid.runs() if run.config.seed == 0}
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
    for content, named in (("{}", "not the record"), ("[", "not JSON"), ("[1]", "not a JSON object")):
        path.write_text(content)
        with pytest.raises(DataError, match=named):
            read_recorded(path)
    with pytest.raises(DataError, match="can't be read"):
        read_recorded(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match="no finished run"):
        write_record(path, Grid(), tmp_path)


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids, **settings) -> str:
        return bytes(ids).decode(errors="replace")


def test_positions_and_ends_are_counted_in_tokens() -> None:
    texts = [b"9*2 = 18\n#### 18\n", b"It is 18."]
    made = [Generation("?", tuple(text), text.decode(), "stop") for text in texts]
    graded = [Graded(Problem("?", "#### 18", "18"), item, 0, 0, 0, 0) for item in made]
    assert answer_positions(Bytes(), graded) == [[17, 16], [9, None]]
    assert token_ends(Bytes(), "3 €".encode(), "3 €") == [1, 1, 0, 0, 1]


@given(st.text(max_size=30), st.integers(0, 30))
def test_the_ends_of_tokens_are_those_of_decoded_prefixes(tokenizer, said, cut) -> None:
    ids, text = [*tokenizer.encode(said), tokenizer.eos_token_id], said[:cut]
    decoded = [decode_response(tokenizer, ids[:count]) for count in range(len(ids) + 1)]
    reached = accumulate((len(os.path.commonprefix([begun, text])) for begun in decoded), max)
    assert token_ends(tokenizer, ids, text) == [end - begin for begin, end in pairwise(reached)]


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
                about = {"learning_rate": lr, "seed": seed, "subset_seed": seed, "max_new_tokens": 160}
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
    figure = plot_sweep(words, "train_size", hue="max_new_tokens", metrics=("accuracy",))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["128", "full"]
    assert len(plot_curves(frame, "learning_rate", metrics=("accuracy",)).axes) == 1


# --- the command ----------------------------------------------------------------------------------------------------


def options(small_run: dict, out: Path) -> list[str]:
    argv = ["sweep", "--out", str(out), "--model", small_run["model"], "--data", small_run["data"]]
    for name in ("eval_data", "train_size", "batch_size", "max_steps", "eval_size", "max_new_tokens"):
        argv += ["--set", f"{name}={small_run[name]}"]
    return argv


def test_the_command_makes_runs_and_records_them(small_run, tmp_path, capsys) -> None:
    out, record = tmp_path / "sweep", tmp_path / "record.json"
    argv = [*options(small_run, out), "--grid", "learning_rate=1e-3,1e-2", "--seeds", "0,1", "--set", "eval_every=none"]
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


def test_the_command_exits_with_1_where_a_run_failed(small_run, tmp_path, capsys) -> None:
    argv = options(small_run | {"train_size": 500}, tmp_path / "sweep")
    assert main([*argv, "--grid", "learning_rate=1e-3"]) == 1
    assert "500 problems asked for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--grid", "learning_rate"], "NAME=VALUE"),
        (["--grid", "rate=1"], "rate"),
        (["--grid", "learning_rate=1e-3", "--grid", "learning_rate=1e-4"], "twice"),
        (["--generations", "first-seed"], "--record"),
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
    argv = [
        *options(small_run | {"max_steps": 100_000}, out),
        "--grid",
        "learning_rate=1e-4,2e-4",
        "--set",
        "eval_every=null",
    ]
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
