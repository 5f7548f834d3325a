"""The process that runs the learner's code: functions in, values out.

It imports an exercise's checks once, most of them with PyTorch, then forks a worker for each file, so that files can't
touch one another. A worker limits its memory, its processor time and its files, imports the learner's file, calls its
functions on the cases of the exercise and writes a line a call. The checker, which never imports the file, compares.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from cs336_sft.exercises.sandbox.perform import Crash, Observation, crash_of, perform, write_observation

MAX_FILE_BYTES = 2**25


def main() -> None:
    """Serve until the checker closes its end.

    A request is a line of JSON; the answers are "started" and the worker's exit status.
    """
    requests, answers = os.fdopen(os.dup(0)), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.write(answers, b"ready\n")
    for line in requests:
        task = json.loads(line)
        checks = importlib.import_module(f"cs336_sft.exercises.checks.{task['exercise']}").CHECKS
        os.write(answers, b"started\n")
        pid = os.fork()
        if pid == 0:
            try:
                requests.close()
                os.close(answers)
                work(task, [(check.function, case) for check in checks for case in check.cases])
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


def work(task: dict[str, Any], calls: list[tuple[str, Any]]) -> None:
    """Import the learner's file, make the calls and write a line about each."""
    file = task["file"]
    results = os.open(task["results"], os.O_WRONLY | os.O_APPEND)
    log = os.open(task["output"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(task["folder"])
    sys.path.append(os.path.dirname(file))  # modules next to the exercise

    def report(seen: Observation) -> None:
        os.write(results, write_observation(seen).encode() + b"\n")

    with suppress(OSError):
        code = Path(file).read_bytes()
        if any(name in code for name in (b"torch", b"cs336_sft", b"transformers")):
            importlib.import_module("torch")  # before the limit: its libraries need addresses
    limit(task["memory"], task["seconds"])
    spec = importlib.util.spec_from_file_location("learner_exercise", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["learner_exercise"] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # SystemExit too
        return report(Observation(crash=crash_of(error, file)))
    report(Observation())
    for name, case in calls:
        function = getattr(module, name, None)
        if callable(function):
            report(perform(function, case, file=file))
        else:
            report(Observation(crash=Crash("AttributeError", f"the file has no function {name}")))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # the learner closed or replaced it, or it is full
                continue


def limit(memory: int, seconds: float) -> None:
    """Limit address space (beyond what is in use), processor time and file sizes."""
    limits = {resource.RLIMIT_CPU: int(seconds) + 2, resource.RLIMIT_FSIZE: MAX_FILE_BYTES, resource.RLIMIT_CORE: 0}
    statm = Path("/proc/self/statm")  # pages of address space in use; Linux only
    if statm.exists():
        limits[resource.RLIMIT_AS] = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
    for kind, value in limits.items():
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # macOS refuses some of them; there may be a lower limit already
            continue
