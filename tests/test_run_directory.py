from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cs336_sft.errors import RunDirectoryError
from cs336_sft.training import run_directory
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import JsonLines, plain, read_json, write_csv, write_json

HOLD_LOCK = """
import sys, time
from cs336_sft.training.run_directory import RunDirectory
with RunDirectory(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_run_on_the_same_directory_is_refused(tmp_path):
    with RunDirectory(tmp_path / "run").locked():
        with pytest.raises(RunDirectoryError, match=rf"in use by process {os.getpid()} on .*Remedy"):
            with RunDirectory(tmp_path / "run").locked():
                pass
    with RunDirectory(tmp_path / "run").locked():  # given back
        pass


def test_the_lock_of_a_live_process_holds_and_that_of_a_killed_one_does_not(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(run_directory.__file__).parents[2])}
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(RunDirectoryError, match=f"process {child.pid}"), RunDirectory(tmp_path).locked():
            pass
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert (tmp_path / "run.owner").exists()  # it had no chance to tidy up
    with RunDirectory(tmp_path).locked():
        assert f"process {os.getpid()} on" in (tmp_path / "run.owner").read_text()


def test_a_directory_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunDirectoryError, match=r"not a run .*thesis\.txt.*Remedy: choose"):
        with RunDirectory(tmp_path).locked():
            pass
    assert os.listdir(tmp_path) == ["thesis.txt"]
    with pytest.raises(RunDirectoryError, match="is a file"), RunDirectory(tmp_path / "thesis.txt").locked():
        pass


def test_every_differing_field_is_named_with_both_values(tmp_path):
    run = RunDirectory(tmp_path)
    run.check_config({"seed": 0, "lr": 1e-5, "betas": (0.9, 0.95), "progress": True, "old": 1})
    run.check_config({"seed": 0, "lr": 1e-5, "betas": (0.9, 0.95), "progress": False, "old": 1}, free=["progress"])
    with pytest.raises(RunDirectoryError) as error:
        run.check_config({"seed": 3, "lr": 1e-5, "betas": (0.9, 0.99), "progress": True, "new": "x"}, free=["progress"])
    for text in ("seed was 0, now 3", "betas was [0.9, 0.95], now [0.9, 0.99]", 'new was null, now "x"', "old was 1"):
        assert text in str(error.value)
    assert "lr was" not in str(error.value) and "progress" not in str(error.value)
    assert read_json(tmp_path / "config.json")["seed"] == 0


def test_a_line_cut_off_by_a_crash_is_dropped_and_the_log_goes_on(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        lines.append({"step": step})
    with lines.path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert lines.read() == [{"step": 1}, {"step": 2}]
    lines.keep(lambda record: True)
    lines.append({"step": 3})
    assert lines.read() == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_a_cut_that_happens_to_be_whole_json_is_dropped_too(tmp_path):
    """`12` cut from `123` is a number; only the newline says that a line is whole."""
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2}')
    assert JsonLines(tmp_path / "m.jsonl").read() == [{"step": 1}]


@pytest.mark.parametrize("damage", ["{broken", "[1]", "", "\x00\x00"])
def test_damage_elsewhere_names_file_and_line(tmp_path, damage):
    (tmp_path / "m.jsonl").write_text(f'{{"step": 1}}\n{damage}\n{{"step": 3}}\n')
    with pytest.raises(RunDirectoryError, match=r"m\.jsonl, line 2"):
        JsonLines(tmp_path / "m.jsonl").read()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_json(path, {"seed": 0})

    def full_disk(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RunDirectoryError, match=r"config\.json: could not be written \(no space.*Remedy: free"):
        write_json(path, {"seed": 1})
    assert read_json(path) == {"seed": 0} and list(tmp_path.iterdir()) == [path]


def test_json_stays_strict(tmp_path):
    record = {"a": float("nan"), "b": float("-inf"), "c": 1.5, "d": None}
    assert plain(record) == {"a": None, "b": None, "c": 1.5, "d": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        JsonLines(tmp_path / "m.jsonl").append({"loss": float("nan")})
    assert not (tmp_path / "m.jsonl").exists() or (tmp_path / "m.jsonl").read_text() == ""
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(RunDirectoryError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_csv_has_a_column_for_every_key(tmp_path):
    write_csv(tmp_path / "m.csv", [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "entropy": None}])
    assert (tmp_path / "m.csv").read_text() == "step,loss,entropy\n1,0.5,\n2,0.25,\n"


def test_sessions_add_up(tmp_path):
    run = RunDirectory(tmp_path)
    run.add_session({"from_step": 0})
    run.add_session({"from_step": 7})
    assert json.loads((tmp_path / "versions.json").read_text()) == {"sessions": [{"from_step": 0}, {"from_step": 7}]}
