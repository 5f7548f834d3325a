"""``cs336-sft hint``: help with an exercise, in three steps.

cs336-sft hint ex03
cs336-sft hint ex03 2
"""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("hint", help="a hint for an exercise, in three steps")
    parser.add_argument("exercise", metavar="exNN", help="which exercise")
    parser.add_argument(
        "step",
        nargs="?",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="1: where to look; 2: what to do; 3: nearly the code",
    )


def run(args: argparse.Namespace) -> None:
    from cs336_sft.exercises.registry import find_exercise

    exercise = find_exercise(args.exercise)
    print(f"{exercise.title}, hint {args.step} of 3")
    print(exercise.hints[args.step - 1])
    if args.step < 3:
        print(f"\nnext: cs336-sft hint {exercise.number} {args.step + 1}")
    else:
        print(f"\nthat was the last; the solution: cs336-sft solution {exercise.number}")
