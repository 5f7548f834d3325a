"""``cs336-sft reset``: put the stub of an exercise back (your file is kept beside it).

cs336-sft reset ex03
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cs336_sft.cli import common
from cs336_sft.errors import DataError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("reset", help="start an exercise afresh; your file is kept under another name")
    parser.add_argument("exercise", metavar="exNN", help="which exercise")
    parser.add_argument("--file", metavar="PATH", help="where, if not exercises/exNN_name.py")
    parser.add_argument("--yes", action="store_true", help="don't ask")


def run(args: argparse.Namespace) -> int:
    from cs336_sft.exercises.files import displayed, learner_file, write_stub
    from cs336_sft.exercises.registry import find_exercise

    exercise = find_exercise(args.exercise)
    try:
        path = Path(args.file) if args.file else learner_file(exercise)
    except DataError:  # not there yet: write it here
        path = Path("exercises", exercise.file_name)
    if path.is_file() and not (args.yes or common.confirmed(f"Replace {displayed(path)} by the stub?")):
        print("left as it is")
        return 1
    kept = write_stub(exercise, path)
    print(f"{displayed(path)} is the stub again")
    if kept:
        print(f"your version: {displayed(kept)}")
    return 0
