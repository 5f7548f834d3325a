"""``cs336-sft watch``: check again each time you save. Ctrl-C ends it.

cs336-sft watch ex03
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cs336_sft.cli import common
from cs336_sft.cli.check import add_limits, limits_of, print_report


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("watch", help="check an exercise each time its file is saved")
    parser.add_argument("exercise", nargs="?", metavar="exNN", help="which exercise; default: whichever is saved")
    parser.add_argument("--file", metavar="PATH", help="your file, if it is not exercises/exNN_name.py")
    add_limits(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.errors import ConfigError
    from cs336_sft.exercises.files import learner_file
    from cs336_sft.exercises.registry import EXERCISES, find_exercise

    if args.file and not args.exercise:
        raise ConfigError("--file without an exercise", "say which one: cs336-sft watch ex03 --file PATH")
    exercises = [find_exercise(args.exercise)] if args.exercise else list(EXERCISES)
    exercise_of = {learner_file(exercise, args.file): exercise for exercise in exercises}
    from cs336_sft.exercises.checker import check_file
    from cs336_sft.exercises.sandbox.runner import Server

    with Server(limits_of(args)) as server:

        def check(path: Path) -> None:
            print_report(check_file(exercise_of[path], path, server))
            print()

        server.start()
        if args.exercise:
            check(next(iter(exercise_of)))
        common.note("waiting for a file to be saved; Ctrl-C ends")
        follow(exercise_of, check)


def follow(
    paths: Iterable[Path],
    on_save: Callable[[Path], None],
    *,
    seconds: float = 0.3,
    running: Callable[[], bool] = lambda: True,
) -> None:
    """Call ``on_save`` for each file whose time or size changes, while ``running()``.

    >>> follow([], print, running=lambda: False)
    """
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
