"""``cs336-sft check``: check one exercise, or all; the exit status is 0 only if all that was checked passes.

cs336-sft check ex03
cs336-sft check ex03 --file my_functions.py
cs336-sft check
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    from cs336_sft.exercises.report import Report
    from cs336_sft.exercises.sandbox.runner import Limits

FAILED = 1


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "check",
        help="check your solution of an exercise",
        description="Runs your file in a process of its own, with limits, and compares what its functions return. "
        "Exit status: 0 if everything passes, 1 if not, 2 if there was nothing to check.",
    )
    parser.add_argument("exercise", nargs="?", metavar="exNN", help="which exercise; default: all")
    parser.add_argument("--file", metavar="PATH", help="your file, if it is not exercises/exNN_name.py")
    add_limits(parser)
    common.add_json(parser)


def add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds", type=common.positive_float, default=20.0, metavar="S", help="time that one file may take (20)"
    )
    parser.add_argument(
        "--memory", type=common.positive_int, default=1024, metavar="MIB", help="memory that one file may take (1024)"
    )


def limits_of(args: argparse.Namespace) -> Limits:
    from cs336_sft.exercises.sandbox.runner import MIB, Limits

    return Limits(seconds=args.seconds, memory=args.memory * MIB)


def run(args: argparse.Namespace) -> int:
    from cs336_sft.exercises.registry import find_exercise

    if args.exercise is None:
        if args.file is not None:
            raise ConfigError("--file without an exercise", "say which one: cs336-sft check ex03 --file PATH")
        from cs336_sft.exercises.checker import check_all

        reports = check_all(limits=limits_of(args))
    else:
        from cs336_sft.exercises.files import learner_file

        exercise = find_exercise(args.exercise)
        path = learner_file(exercise, args.file)
        from cs336_sft.exercises.checker import check_file
        from cs336_sft.exercises.sandbox.runner import Server

        with Server(limits_of(args)) as server:
            reports = [check_file(exercise, path, server)]
    if args.json:
        common.print_json([report.as_dict() for report in reports])
    else:
        for report in reports:
            print_report(report)
        if len(reports) > 1:
            print(f"\n{sum(report.passed for report in reports)} of {len(reports)} exercises pass")
    return 0 if all(report.passed for report in reports) else FAILED


def print_report(report: Report) -> None:
    """With colours in a terminal, without elsewhere (or where NO_COLOR is set)."""
    print(report.text(colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
