"""``cs336-sft progress``: where you stand, by checking every exercise now. Nothing is stored."""

from __future__ import annotations

import argparse

from cs336_sft.cli import common
from cs336_sft.cli.check import add_limits, limits_of


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("progress", help="which exercises pass, which are still to be done")
    add_limits(parser)
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.exercises.checker import check_all
    from cs336_sft.exercises.registry import EXERCISES

    reports = check_all(limits=limits_of(args))
    if args.json:
        common.print_json([report.as_dict() for report in reports])
        return
    rows = [
        (exercise.title, exercise.topic, f"{exercise.difficulty}/5", f"{exercise.minutes} min", report.status)
        for exercise, report in zip(EXERCISES, reports, strict=True)
    ]
    common.print_table(("exercise", "topic", "difficulty", "about", "status"), rows)
    left = [exercise for exercise, report in zip(EXERCISES, reports, strict=True) if not report.passed]
    print(f"\n{len(reports) - len(left)} of {len(reports)} pass")
    if left:
        minutes = sum(exercise.minutes for exercise in left)
        print(f"next: {left[0].title} (about {minutes / 60:.1f} hours of exercises are left)")
