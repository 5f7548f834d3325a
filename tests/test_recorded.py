"""The records that come with the course: opened by name, and made by the grids that the repository holds today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cs336_sft.errors import DataError
from cs336_sft.experiments.ei_record import read_ei_record
from cs336_sft.experiments.grid import Grid, read_grid
from cs336_sft.experiments.record import FORMAT, read_sweep_record
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.lessons.common import open_recorded
from recipes.record_expert_iteration import ARMS

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / "recorded"
SWEEPS = [path for path in sorted(RECORDED.rglob("*.json")) if json.loads(path.read_text()).get("format") == FORMAT]


def names(grid: Grid) -> set[str]:
    return {run.name for run in grid.runs(gpu=False)}


def test_there_are_records():
    assert {"tiny_lr_batch", "tiny_data_size", "truncation_tiny"} <= {path.stem for path in SWEEPS}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_record_holds_the_runs_of_todays_grid(path):
    """A grid edited after its record was made would say of the record what is not so."""
    record, grid = read_sweep_record(path), read_grid(ROOT / "recipes" / "grids" / path.name)
    assert record["runs_planned"] == len(grid.runs(gpu=False))
    # Runs are named after their settings.
    assert {run["name"] for run in record["runs"]} <= names(grid)
    assert not record["failed"]
    curves = [run["losses"] for run in record["runs"]]
    assert all(len(column) == len(curve["step"]) for curve in curves for column in curve.values())
    assert all("loss" in curve for curve in curves)


def test_a_record_of_an_older_grid_is_noticed():
    path = next(path for path in SWEEPS if path.stem == "tiny_data_size")
    record, grid = read_sweep_record(path), read_grid(ROOT / "recipes" / "grids" / path.name)
    later = grid.with_settings({"gen_batch_size": 7})
    assert not {run["name"] for run in record["runs"]} <= names(later)


@pytest.mark.parametrize("path", sorted((RECORDED / "expert_iteration").glob("*.json")), ids=lambda path: path.stem)
def test_a_record_of_expert_iteration_has_todays_settings(path):
    record = read_ei_record(path)
    config = ExpertIterationConfig.from_dict(record.about["config"])
    assert (config.learning_rate, config.temperature) == tuple(
        record.about["arguments"].get(name, value) for name, value in (("learning_rate", 1e-4), ("temperature", 0.3))
    )
    assert not record.failed
    for arm, runs in record.runs.items():
        if arm in ARMS:  # "optimizer kept" and "temperature 0.7" were recorded by earlier versions of the recipe
            assert {seed: run["changes"] for seed, run in runs.items()} == dict.fromkeys(runs, ARMS[arm]), arm


def test_a_record_is_found_by_its_name_wherever_it_lies():
    frame = open_recorded("tiny_data_size")
    assert {"accuracy", "step", "last"} <= set(frame.columns) and frame.attrs["record"]["runs_planned"] == 30


def test_a_record_with_runs_missing_says_so(tmp_path, capsys):
    record = json.loads((RECORDED / "data_size" / "tiny_data_size.json").read_text())
    record["runs"] = record["runs"][:4]
    (tmp_path / "tiny_data_size.json").write_text(json.dumps(record))
    open_recorded("tiny_data_size", tmp_path)
    assert "4 of the 30 runs" in capsys.readouterr().out


def test_a_record_that_is_not_there_names_its_recipe(tmp_path):
    with pytest.raises(DataError, match="recipes/record_grids.py --out recorded --parts tiny_lr_batch"):
        open_recorded("tiny_lr_batch", tmp_path)
