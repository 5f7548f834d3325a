"""The verdict on a learner's file: untouched, crashed, wrong or passed.

The verdict is made here, in a process that never imports the file. What the file prints, raises, exits with or
replaces in its own process can only change the values that come back, and those have to be right.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from cs336_sft.exercises.compare import crash_failure
from cs336_sft.exercises.files import displayed, learner_file, untouched
from cs336_sft.exercises.registry import EXERCISES, Exercise, exercises_of_function, find_exercise
from cs336_sft.exercises.report import Failure, Report, line
from cs336_sft.exercises.sandbox.runner import Limits, Server, Stopped

# What PyTorch imports on its first backward and its first optimizer: once a server instead of once a file.
_BACKWARD = ("torch.fx.experimental.symbolic_shapes",)
_PRELOAD = dict.fromkeys(("ex03", "ex04", "ex05", "ex06", "ex10"), _BACKWARD)
_PRELOAD |= dict.fromkeys(("ex11", "ex13"), (*_BACKWARD, "torch._dynamo"))


def check_file(exercise: Exercise, file: Path, server: Server, *, name: str | None = None) -> Report:
    """Check one file in a server's process.

    Args:
        exercise: what it should hold.
        file: the learner's file.
        server: runs it.
        name: what to call it in the report; default: its path.
    """
    started = time.monotonic()
    name = name or displayed(file)

    def report(failure: Failure | None, printed: str = "") -> Report:
        return Report(exercise.title, name, failure, printed, time.monotonic() - started)

    try:
        if untouched(exercise, file.read_text(encoding="utf-8")):
            task = f"the stub is as it was shipped; about {exercise.minutes} minutes, see {exercise.notebook}"
            return report(Failure("not attempted", task))
    except (SyntaxError, ValueError) as error:
        number = getattr(error, "lineno", None)
        code = (getattr(error, "text", "") or "").strip()
        detail = (line(f"your line {number}: {code}", "bad"),) if number else ()
        return report(Failure("crashed", f"not Python: {getattr(error, 'msg', error)}", detail))
    check = import_module(f"cs336_sft.exercises.checks.{exercise.number}").check
    session = server.open(file, preload=_PRELOAD.get(exercise.number, ()))
    try:
        with session:
            failure = check(session)
    except Stopped as stopped:
        failure = crash_failure(" and ".join(exercise.functions), stopped.crash)
    return report(failure, session.printed)


def check_all(file_of: Callable[[Exercise], Path] = learner_file, limits: Limits | None = None) -> list[Report]:
    """Every exercise's report, in order."""
    with Server(limits) as server:
        return [check_file(exercise, file_of(exercise), server) for exercise in EXERCISES]


def check(
    what: str | Callable[..., Any], *, file: str | os.PathLike[str] | None = None, exercise: str | None = None
) -> Report:
    """Check an exercise from a notebook: its file, or a function that a cell defines.

    Args:
        what: ``"ex03"``, or the function itself.
        file: the file to check instead of ``exercises/exNN_name.py``.
        exercise: which exercise a function is for, where its name does not tell (``tokenize_prompt_and_output`` is
            asked for by ex02 and ex09; without it the first one is meant).

    Returns:
        A report that a notebook shows in colour; ``.passed`` and ``.status`` are the verdict.

    Raises:
        CourseError: no such exercise or file, or a function whose source can't be had.

    >>> check("ex99")
    Traceback (most recent call last):
    ...
    cs336_sft.errors.ConfigError: no exercise is called 'ex99'. Remedy: did you mean ex09.
    """
    if callable(what):
        from cs336_sft.exercises.notebook import check_function

        return check_function(what, _exercise_of(what, exercise))
    asked = find_exercise(what)
    path = learner_file(asked, file)
    with Server() as server:
        return check_file(asked, path, server)


def _exercise_of(function: Callable[..., Any], exercise: str | None) -> Exercise:
    if exercise is not None:
        return find_exercise(exercise)
    found = exercises_of_function(getattr(function, "__name__", ""))
    return found[0] if found else find_exercise(getattr(function, "__name__", repr(function)))
