"""Every bad input is told in one line that names the file and line, or the field and its value, and the remedy."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from bad_inputs import COMMANDS, CONFIGS, READERS, Bad, make_files

from cs336_sft.cli import main
from cs336_sft.errors import CourseError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bad")
    make_files(path)
    return path


@pytest.fixture(autouse=True)
def in_the_folder(folder, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CS336_DATA", str(tmp_path / "fetched"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("CS336_PROFILE", "CS336_GSM8K"):
        monkeypatch.delenv(name, raising=False)


def named(rows: tuple[Bad, ...]):
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.given)


@named(COMMANDS)
def test_a_command_exits_with_2_and_says_why(row: Bad, folder, capsys) -> None:
    before = {path.relative_to(folder) for path in folder.rglob("*")}
    if row.usage:
        with pytest.raises(SystemExit) as stopped:
            main(shlex.split(row.given))
        status = stopped.value.code
    else:
        status = main(shlex.split(row.given))
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert row.words in captured.err and "Traceback" not in captured.err
    if not row.usage:
        (line,) = captured.err.strip().splitlines()
        assert line.startswith("cs336-sft: ") and "Remedy: " in line
    # Nothing was begun that would be in the way afterwards.
    made = {path.relative_to(folder) for path in folder.rglob("*")} - before
    assert {path.name for path in made} <= {"run.lock", "generations"}


@named(READERS + CONFIGS)
def test_a_call_raises_an_error_with_its_remedy(row: Bad, folder) -> None:
    with pytest.raises(CourseError) as caught:
        row.call(folder)
    assert row.words in str(caught.value) and ". Remedy: " in str(caught.value)


def test_there_are_enough_of_them_and_each_once() -> None:
    every = [row.given for row in COMMANDS + READERS + CONFIGS]
    assert len(every) >= 60 and len(set(every)) == len(every)
