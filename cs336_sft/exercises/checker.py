"""A learner's file to a report: not attempted, crashed, wrong or passed.

The comparison is made here, in a process that never imports the file. What the file prints, raises, exits with or
replaces in its own process can only change the values that come back, and those have to be right.
"""

from __future__ import annotations

import time
from importlib import import_module
from itertools import islice
from pathlib import Path

from cs336_sft.exercises.compare import compare, crash_failure
from cs336_sft.exercises.files import displayed, untouched
from cs336_sft.exercises.registry import Exercise
from cs336_sft.exercises.report import Failure, Report, line
from cs336_sft.exercises.sandbox.runner import Server


def check_file(exercise: Exercise, file: Path, server: Server, *, name: str | None = None) -> Report:
    """Check a learner's file in a server's process."""
    started = time.monotonic()
    failure, printed = _failure(exercise, file, server)
    return Report(exercise.title, name or displayed(file), failure, printed, time.monotonic() - started)


def _failure(exercise: Exercise, file: Path, server: Server) -> tuple[Failure | None, str]:
    """Return why the file does not pass, and what its code printed."""
    try:
        if untouched(exercise, file.read_text(encoding="utf-8")):
            task = f"the stub is as it was shipped; about {exercise.minutes} minutes, see {exercise.notebook}"
            return Failure("not attempted", task), ""
    except (SyntaxError, ValueError) as error:
        number = getattr(error, "lineno", None)
        code = (getattr(error, "text", "") or "").strip()
        detail = (line(f"your line {number}: {code}", "bad"),) if number else ()
        return Failure("crashed", f"not Python: {getattr(error, 'msg', error)}", detail), ""
    checks = import_module(f"cs336_sft.exercises.checks.{exercise.number}").CHECKS
    seen, crash, printed = server.run(file, exercise.number, sum(len(check.cases) for check in checks))
    if crash:
        return crash_failure(" and ".join(exercise.functions), crash), printed
    observations = iter(seen)
    for check in checks:
        if failure := compare(check, list(islice(observations, len(check.cases)))):
            return failure, printed
    return None, printed
