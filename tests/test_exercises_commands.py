"""The commands of the exercises, and a learner's way through three of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cs336_sft.cli import main
from cs336_sft.cli.exercises import follow
from cs336_sft.exercises.files import stub_text
from cs336_sft.exercises.registry import EXERCISES, find_exercise

ROOT = Path(__file__).resolve().parent.parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the exercises' process forks")


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A learner's folder with the stubs, apart from the checkout's own."""
    (tmp_path / "exercises").mkdir()
    for exercise in EXERCISES:
        (tmp_path / "exercises" / exercise.file_name).write_text(stub_text(exercise))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "exercises"


def answer(monkeypatch, text: str) -> None:
    monkeypatch.setattr("builtins.input", lambda question: text)


# Two wrong attempts each, by the names of tests/mistakes, then the solution.
PATHS = {
    "ex02": ("mask_not_shifted", "padding_supervised"),
    "ex04": ("never_divided", "mean_of_means"),
    "ex07": ("last_number", "stops_at_comma"),
}


@needs_fork
@pytest.mark.parametrize("number", PATHS)
def test_a_learner_s_way(number: str, work: Path, capsys) -> None:
    """Untouched, wrong twice with two different messages, right."""
    exercise = find_exercise(number)
    file = work / exercise.file_name
    shown = []

    def attempt(text: str | None) -> int:
        if text is not None:
            file.write_text(text)
        status = main(["check", number])
        shown.append(capsys.readouterr().out)
        return status

    assert attempt(None) == 1 and "NOT ATTEMPTED" in shown[-1]
    for mistake in PATHS[number]:
        assert attempt((ROOT / "tests" / "mistakes" / number / f"{mistake}.py").read_text()) == 1
        assert "WRONG" in shown[-1] and "known slip" in shown[-1] and f"cs336-sft hint {number}" in shown[-1]
    assert shown[1].splitlines()[2] != shown[2].splitlines()[2]
    assert attempt((ROOT / "solutions" / exercise.file_name).read_text()) == 0
    assert shown[-1].splitlines()[0] == f"{exercise.title}: PASSED"
    assert all(f"checked: exercises/{exercise.file_name}" in text for text in shown)


@needs_fork
def test_check_of_all_and_progress(work: Path, capsys) -> None:
    right = find_exercise("ex12")
    (work / right.file_name).write_text((ROOT / "solutions" / right.file_name).read_text())
    assert main(["check", "--json"]) == 1
    reports = json.loads(capsys.readouterr().out)
    assert [report["status"] for report in reports].count("not attempted") == 14
    assert reports[11]["status"] == "passed"
    assert main(["progress"]) == 0
    text = capsys.readouterr().out
    assert "1 of 15 pass" in text and "next: ex01 token_lengths" in text


def test_hints_come_in_three_steps(capsys) -> None:
    texts = []
    for step in ([], ["2"], ["3"]):
        assert main(["hint", "ex05", *step]) == 0
        texts.append(capsys.readouterr().out)
    assert "cs336-sft hint ex05 2" in texts[0] and "cs336-sft hint ex05 3" in texts[1]
    assert "cs336-sft solution ex05" in texts[2] and "log_softmax" not in texts[0]


def test_the_solution_is_shown_only_after_asking(monkeypatch, capsys) -> None:
    answer(monkeypatch, "")
    assert main(["solution", "ex03"]) == 1
    assert "def masked_normalize" not in capsys.readouterr().out
    answer(monkeypatch, "y")
    assert main(["solution", "ex03"]) == 0
    assert "def masked_normalize" in capsys.readouterr().out


def test_nobody_to_ask_means_no(monkeypatch, capsys) -> None:
    def ended(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert main(["solution", "ex03"]) == 1


def test_reset_keeps_what_was_there(work: Path, monkeypatch, capsys) -> None:
    file = work / find_exercise("ex03").file_name
    file.write_text("mine = 1\n")
    answer(monkeypatch, "n")
    assert main(["reset", "ex03"]) == 1 and file.read_text() == "mine = 1\n"
    answer(monkeypatch, "y")
    assert main(["reset", "ex03"]) == 0 and main(["reset", "ex03", "--yes"]) == 0
    assert file.read_text() == stub_text(find_exercise("ex03"))
    assert (work / "ex03_masked_normalize.before-reset-1.py").read_text() == "mine = 1\n"
    assert len(list(work.glob("ex03*"))) == 2  # an untouched stub is not kept
    file.write_text("mine = 2\n")
    assert main(["reset", "ex3", "--yes"]) == 0
    assert (work / "ex03_masked_normalize.before-reset-2.py").read_text() == "mine = 2\n"


def test_watch_calls_once_for_each_save(tmp_path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    for file in (one, two):
        file.write_text("1")
    saved, turns = [], iter([lambda: None, lambda: one.write_text("22"), lambda: None, two.unlink, lambda: None])

    def running() -> bool:
        step = next(turns, None)
        if step is not None:
            step()
        return step is not None

    follow([one, two], saved.append, seconds=0, running=running)
    assert saved == [one]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["check", "ex99"], "no exercise is called 'ex99'"),
        (["check", "ex03", "--file", "nowhere.py"], "nowhere.py: no such file"),
        (["check", "--file", "x.py"], "--file without an exercise"),
        (["watch", "--file", "x.py"], "--file without an exercise"),
        (["hint", "masked_normalise"], "did you mean masked_normalize"),
    ],
)
def test_errors_are_one_line(argv, words, capsys) -> None:
    assert main(argv) == 2
    assert words in capsys.readouterr().err


@needs_fork
@pytest.mark.parametrize("exercise", ["ex07", "ex08", "ex12"])
def test_exercises_in_plain_python_are_checked_without_pytorch(exercise, tmp_path) -> None:
    for package in ("torch", "transformers"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not here')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}

    def check(file: Path) -> dict:
        command = [sys.executable, "-m", "cs336_sft", "check", exercise, "--file", str(file), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode in (0, 1), done.stderr
        (report,) = json.loads(done.stdout)
        return report

    (right,) = (ROOT / "solutions").glob(f"{exercise}_*.py")
    assert check(right)["status"] == "passed"
    wrong = sorted((ROOT / "tests/mistakes" / exercise).glob("*.py"))[0]
    assert check(wrong)["status"] == "wrong"


@needs_fork
def test_the_submissions_of_a_class(tmp_path, capsys) -> None:
    hard, easy = find_exercise("ex07"), find_exercise("ex08")
    for name in ("ada", "bob", "eve"):
        (tmp_path / name / "work").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    right = (ROOT / "solutions" / hard.file_name).read_text()
    (tmp_path / "ada/work" / hard.file_name).write_text(right)
    (tmp_path / "ada" / easy.file_name).write_text("import sys\nsys.exit(1)\n")
    (tmp_path / "bob" / hard.file_name).write_text((ROOT / "tests/mistakes/ex07/first_marker.py").read_text())
    (tmp_path / "bob/work" / easy.file_name).write_text(stub_text(easy))
    (tmp_path / "eve" / hard.file_name).symlink_to(tmp_path / "ada/work" / hard.file_name)
    assert main(["grade-folder", str(tmp_path), "--json"]) == 0
    ada, bob, eve = json.loads(capsys.readouterr().out)
    assert [(item["submission"], item["passed"]) for item in (ada, bob, eve)] == [("ada", 1), ("bob", 0), ("eve", 0)]
    assert [ada["exercises"][number]["status"] for number in ("ex07", "ex08", "ex01")] == [
        "passed",
        "crashed",
        "missing",
    ]
    assert (bob["exercises"]["ex07"]["status"], bob["exercises"]["ex07"]["slip"]) == ("wrong", "first-marker")
    assert bob["exercises"]["ex08"]["status"] == "not attempted"
    assert eve["exercises"]["ex07"]["status"] == "missing"  # a link to another's file is no submission
    assert main(["grade-folder", str(tmp_path)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:3] == ["submission", "passed", "ex01"] and table[-3].split()[:2] == ["ada", "1"]


def test_grade_folder_names_what_is_missing(tmp_path, capsys) -> None:
    assert main(["grade-folder", str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err
    assert main(["grade-folder", str(tmp_path)]) == 2 and "holds no folder" in capsys.readouterr().err
