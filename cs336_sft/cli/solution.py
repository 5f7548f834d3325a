"""``cs336-sft solution``: show the solution of an exercise, after asking.

cs336-sft solution ex03
"""

from __future__ import annotations

import argparse

from cs336_sft.cli import common


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("solution", help="show the solution of an exercise (asks first)")
    parser.add_argument("exercise", metavar="exNN", help="which exercise")
    parser.add_argument("--yes", action="store_true", help="don't ask")


def run(args: argparse.Namespace) -> int:
    from cs336_sft.exercises.files import solution_file
    from cs336_sft.exercises.registry import find_exercise

    exercise = find_exercise(args.exercise)
    path = solution_file(exercise)
    question = f"Show the solution of {exercise.title}? There are three hints: cs336-sft hint {exercise.number}"
    if not (args.yes or common.confirmed(question)):
        print("not shown")
        return 1
    print(path.read_text(encoding="utf-8"), end="")
    return 0
