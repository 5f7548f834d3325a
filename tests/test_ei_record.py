"""Recorded experiments: reading, drawing and recording them."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from cs336_sft.errors import DataError
from cs336_sft.experiments.ei_plots import plot_rounds
from cs336_sft.experiments.ei_record import read_ei_record
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from recipes.record_expert_iteration import Recorder, main


def run(arm, seed, *accuracies, test=None):
    rounds = [{"round": number, "accuracy": value, "n_problems": 80} for number, value in enumerate(accuracies)]
    return {"arm": arm, "seed": seed, "rounds": rounds, "test": test and {"accuracy": test}}


@pytest.fixture
def record(tmp_path):
    runs = [
        run("EI", 1, 0.5, 0.8, test=0.7),
        run("EI", 0, 0.5, 0.6, test=0.6),
        run("random", 0, 0.5, 0.2),
        run("random", 1, 0.5, 0.2),
        *(run("A", seed, 0.5, 0.5) for seed in range(3)),
        *(run("B", seed, 0.5, value) for seed, value in enumerate((0.6, 0.7, 0.8))),
        run("one seed", 0, 0.5, 0.9),
        {"arm": "random", "seed": 2, "error": "Traceback\nRuntimeError: out of memory"},
    ]
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"device": "cpu", "runs": runs}))
    return read_ei_record(path)


def test_runs_are_found_by_arm_and_seed_and_failures_aside(record):
    assert record.about == {"device": "cpu"}
    seeds = {arm: list(runs) for arm, runs in record.runs.items()}
    assert seeds == {"EI": [0, 1], "random": [0, 1], "A": [0, 1, 2], "B": [0, 1, 2], "one seed": [0]}
    assert record.failed == (("random", 2, "Traceback\nRuntimeError: out of memory"),)
    assert record.values("EI", "accuracy") == {0: 0.6, 1: 0.8}
    assert record.values("EI", "accuracy", 0) == {0: 0.5, 1: 0.5}
    assert record.values("random", "accuracy", "test") == {} == record.values("nobody", "accuracy")


@pytest.mark.parametrize("content", ["", "[]", '{"runs": [{"arm": "EI"}]}', '{"device": "cpu"}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.json: holds no recorded"):
        read_ei_record(path)
    with pytest.raises(DataError):
        read_ei_record(tmp_path / "missing.json")


def test_curves_have_the_interval_of_the_seeds(record):
    runs = {arm: [run["rounds"] for run in record.runs[arm].values()] for arm in ("EI", "random")}
    panel = plot_rounds(runs).axes[0]
    assert [list(line.get_ydata()) for line in panel.lines] == [[0.5, pytest.approx(0.7)], [0.5, 0.2]]
    with pytest.raises(DataError):
        plot_rounds({"EI": []})


@pytest.mark.parametrize(("low_end", "lowest"), [({"accuracy_low": 0.0}, 0.0), ({}, 0.1 - 12.706 * 0.05)])
def test_the_band_of_a_rate_stays_a_rate(low_end, lowest):
    """0.05 and 0.15: mean 0.1, standard error 0.05, Student's t with one degree of freedom."""
    runs = [[{"round": n, "accuracy": value} | low_end for n, value in ((1, v), (2, 0.1))] for v in (0.05, 0.15)]
    (panel,) = plot_rounds({"EI": runs}).axes
    (band,) = panel.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert low == pytest.approx(lowest, rel=1e-3)
    assert high == pytest.approx(0.1 + 12.706 * 0.05, rel=1e-3)


def recorder(path, **changes):
    """The script's recorder at that file, with the arguments of a small recording."""
    usual = {
        "part": "smollm2",
        "eval_size": 8,
        "sft_size": 16,
        "sft_epochs": 3,
        "seeds": 1,
        "budget": 100.0,
        "resume": True,
    }
    return Recorder(path, Namespace(**usual | changes), ExpertIterationConfig(rounds=2))


def test_a_recording_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "smollm2.json"
    first = recorder(path)
    first.head["gsm8k"] = {"rollouts": {}}
    first.add(run("expert iteration", 0, 0.1, 0.2))
    first.add({"arm": "random samples", "seed": 0, "error": "RuntimeError: out of memory"})
    second = recorder(path, seeds=3, budget=5.0)
    assert second.finished("expert iteration", 0)["rounds"][-1]["accuracy"] == 0.2
    assert second.finished("random samples", 0) is None and second.head["gsm8k"] == {"rollouts": {}}
    second.add(run("random samples", 0, 0.1, 0.0))
    record = read_ei_record(path)
    assert set(record.runs) == {"expert iteration", "random samples"} and not record.failed
    assert {made["device"] for runs in record.runs.values() for made in runs.values()} == {first.head["device"]}


def test_a_recording_does_not_go_on_with_another_ones_file(tmp_path):
    path = tmp_path / "smollm2.json"
    recorder(path).add(run("expert iteration", 0, 0.1, 0.2))
    before = path.read_text()
    with pytest.raises(SystemExit, match=r"other settings \(eval_size\)"):
        recorder(path, eval_size=9)
    assert path.read_text() == before
    assert not recorder(path, resume=False).runs


def test_only_the_recording_arm_by_arm_goes_on(monkeypatch, capsys):
    """The embedded model's script makes all runs anew: taken over as well, they would stand in the file twice."""
    monkeypatch.setattr("sys.argv", ["record_expert_iteration.py", "tiny", "--out", "nowhere", "--resume"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--resume goes on with a recording of smollm2" in capsys.readouterr().err
