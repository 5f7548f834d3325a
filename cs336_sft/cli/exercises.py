"""The commands of a learner, from ``lab`` and ``check`` to ``grade-folder``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError, DataError
from cs336_sft.exercises.files import displayed, learner_file, solution_file, write_stub
from cs336_sft.exercises.registry import EXERCISES, Exercise, find_exercise

if TYPE_CHECKING:
    from cs336_sft.exercises.report import Report

FAILED = 1


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    for name, run, text in (
        ("lab", open_lab, "open your copies of the notebooks, without outputs, in JupyterLab: my_notebooks/"),
        ("check", run_check, "check your solution of an exercise"),
        ("hint", show_hint, "a hint for an exercise, in three steps"),
        ("solution", show_solution, "show the solution of an exercise (asks first)"),
        ("reset", reset_exercise, "put the stub of an exercise back; your file is kept under another name"),
        ("progress", show_progress, "lessons, predictions and exercises: what is done, and what is still to be done"),
        ("watch", watch_files, "check an exercise each time its file is saved; Ctrl-C ends it"),
        ("grade-folder", grade_folder, "check the submissions of a class, a folder each"),
    ):
        parser = subparsers.add_parser(name, help=text)
        parser.set_defaults(run=run)
        if name in ("check", "watch"):
            parser.add_argument("exercise", nargs="?", metavar="exNN", help="number of the exercise; default: all")
        elif name == "grade-folder":
            parser.add_argument("folder", metavar="DIR", help="folder that holds a folder for each submission")
        elif name not in ("lab", "progress"):
            parser.add_argument("exercise", metavar="exNN", help="number of the exercise, such as ex03")
        if name == "hint":
            steps = "1: where to look; 2: what to do; 3: nearly the code"
            parser.add_argument("step", nargs="?", type=int, choices=(1, 2, 3), default=1, help=steps)
        if name in ("check", "watch", "reset"):
            parser.add_argument("--file", metavar="PATH", help="your file, if it is not exercises/exNN_name.py")
        if name in ("solution", "reset"):
            parser.add_argument("--yes", action="store_true", help="don't ask")
        if name in ("check", "grade-folder"):
            common.add_json(parser)


def open_lab(args: argparse.Namespace) -> int:
    from cs336_sft.lessons.learner import NOTEBOOKS, OWN, copy_notebooks

    if not NOTEBOOKS.is_dir():
        raise DataError(f"{NOTEBOOKS}: no such folder", "notebooks come with the course's repository: go there")
    if find_spec("jupyterlab") is None:
        raise ConfigError("JupyterLab is not installed", "pip install -e '.[notebooks]'")
    for path in copy_notebooks():
        print(f"new: {displayed(path)}")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    settings = {"PATH": path, "JUPYTER_PREFER_ENV_PATH": "1"}  # the kernel is this Python
    return subprocess.call([sys.executable, "-m", "jupyterlab", str(OWN)], env=os.environ | settings)


def run_check(args: argparse.Namespace) -> int:
    reports = _reports(_chosen(args))
    if args.json:
        common.print_json([report.as_dict() for report in reports])
    else:
        for report in reports:
            _print_report(report)
        if len(reports) > 1:
            print(f"\n{sum(report.passed for report in reports)} of {len(reports)} exercises pass")
    return 0 if all(report.passed for report in reports) else FAILED


def _chosen(args: argparse.Namespace) -> dict[Path, Exercise]:
    if args.file and not args.exercise:
        raise ConfigError("--file without an exercise", f"say which one: cs336-sft {args.command} ex03 --file PATH")
    exercises = [find_exercise(args.exercise)] if args.exercise else EXERCISES
    return {learner_file(exercise, args.file): exercise for exercise in exercises}


def _reports(exercise_of: dict[Path, Exercise]) -> list[Report]:
    from cs336_sft.exercises.checker import check_file  # PyTorch, late: a wrong path is reported at once
    from cs336_sft.exercises.sandbox.runner import Server

    with Server() as server:
        return [check_file(exercise, path, server) for path, exercise in exercise_of.items()]


def _print_report(report: Report) -> None:
    """Print with colours in a terminal, without elsewhere (or where NO_COLOR is set)."""
    print(report.text(colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))


def show_hint(args: argparse.Namespace) -> int:
    exercise = find_exercise(args.exercise)
    print(f"{exercise.title}, hint {args.step} of 3\n{exercise.hints[args.step - 1]}\n")
    last = f"that was the last; the solution: cs336-sft solution {exercise.number}"
    print(f"next: cs336-sft hint {exercise.number} {args.step + 1}" if args.step < 3 else last)
    return 0


def show_solution(args: argparse.Namespace) -> int:
    exercise = find_exercise(args.exercise)
    path = solution_file(exercise)
    question = f"Show the solution of {exercise.title}? There are three hints: cs336-sft hint {exercise.number}"
    if not (args.yes or common.confirmed(question)):
        print("not shown")
        return FAILED
    print(path.read_text(encoding="utf-8"), end="")
    return 0


def reset_exercise(args: argparse.Namespace) -> int:
    exercise = find_exercise(args.exercise)
    try:
        path = Path(args.file) if args.file else learner_file(exercise)
    except DataError:  # not there yet: write it here
        path = Path("exercises", exercise.file_name)
    if path.is_file() and not (args.yes or common.confirmed(f"Replace {displayed(path)} by the stub?")):
        print("left as it is")
        return FAILED
    kept = write_stub(exercise, path)
    print(f"{displayed(path)} is the stub again")
    if kept:
        print(f"your version: {displayed(kept)}")
    return 0


def show_progress(args: argparse.Namespace) -> int:
    """Check every exercise now, and print lessons and exercises, storing nothing."""
    from cs336_sft.lessons.learner import cells_run, prediction_states

    lessons = []
    for lesson, predictions in prediction_states().items():
        (ran, cells), states = cells_run(lesson), list(predictions.values())
        copy = "finished" if 0 < ran == cells else f"{ran} of {cells} cells" if ran else "not opened"
        made = f"{len(states) - states.count('open')} of {len(states)}"
        lessons.append((lesson, copy, made, str(states.count("held")), str(states.count("missed"))))
    common.print_table(("lesson", "your copy", "predicted", "held", "missed"), lessons)
    print()
    done = list(zip(EXERCISES, _reports({learner_file(exercise): exercise for exercise in EXERCISES}), strict=True))
    rows = [(e.title, e.topic, f"{e.difficulty}/5", f"{e.minutes} min", report.status) for e, report in done]
    common.print_table(("exercise", "topic", "difficulty", "about", "status"), rows)
    left = [exercise for exercise, report in done if not report.passed]
    print(f"\n{len(done) - len(left)} of {len(done)} pass")
    if left:
        hours = sum(exercise.minutes for exercise in left) / 60
        print(f"next: {left[0].title} (about {hours:.1f} hours of exercises are left)")
    return 0


def grade_folder(args: argparse.Namespace) -> int:
    """Check every submission's files, wherever they lie in its folder."""
    from cs336_sft.exercises.checker import check_file
    from cs336_sft.exercises.sandbox.runner import Server

    folder = Path(args.folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder", "give the folder that holds a folder for each submission")
    submissions = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not submissions:
        raise DataError(f"{folder} holds no folder", "put each submission into a folder with its author's name")
    graded = []
    with Server() as server:
        for place in submissions:
            own = {  # file name -> path; a link to another's file is no submission
                path.name: path
                for path in sorted(place.rglob("ex*.py"), reverse=True)
                if path.is_file() and path.resolve().is_relative_to(place.resolve())
            }
            found = {}
            for exercise in EXERCISES:
                file = own.get(exercise.file_name)
                found[exercise.number] = check_file(exercise, file, server).as_dict() if file else {"status": "missing"}
            passed = sum(report["status"] == "passed" for report in found.values())
            graded.append({"submission": place.name, "passed": passed, "exercises": found})
            common.note(f"{place.name}: {passed} of {len(EXERCISES)} pass")
    if args.json:
        common.print_json(graded)
        return 0
    rows = [
        (item["submission"], str(item["passed"]), *(report["status"] for report in item["exercises"].values()))
        for item in graded
    ]
    common.print_table(("submission", "passed", *(exercise.number for exercise in EXERCISES)), rows)
    return 0


def watch_files(args: argparse.Namespace) -> int:
    exercise_of = _chosen(args)
    from cs336_sft.exercises.checker import check_file
    from cs336_sft.exercises.sandbox.runner import Server

    with Server() as server:

        def check(path: Path) -> None:
            _print_report(check_file(exercise_of[path], path, server))
            print()

        server.start()
        if args.exercise:
            check(next(iter(exercise_of)))
        common.note("waiting for a file to be saved; Ctrl-C ends")
        follow(exercise_of, check, running=lambda: True)
    return 0


def follow(
    paths: Iterable[Path], on_save: Callable[[Path], None], *, seconds: float = 0.3, running: Callable[[], bool]
) -> None:
    """Call ``on_save`` for each file whose time or size changes, while running."""
    known = {path: _stamp(path) for path in paths}
    while running():
        time.sleep(seconds)
        for path, before in list(known.items()):
            now = _stamp(path)
            # An editor may replace the file: for a moment there is none.
            if now is not None and now != before:
                known[path] = now
                on_save(path)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size
