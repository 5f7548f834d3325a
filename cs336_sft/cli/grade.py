"""``cs336-sft grade``: grade a file of generations from any source.

cs336-sft grade generations.jsonl --response output --truth answer --style detect --out graded.jsonl --show 5
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common
from cs336_sft.errors import DataError
from cs336_sft.utils.files import atomic_write, parse_jsonl, read_jsonl

if TYPE_CHECKING:
    from cs336_sft.grading import MathVerifier

DETECT = "detect"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    from cs336_sft.grading import STYLES

    text = "grade a JSONL file of generations: the format of each line, and the number in it"
    parser = subparsers.add_parser("grade", help=text)
    parser.add_argument("file", metavar="FILE.jsonl", help="file with one JSON object a line; - reads stdin")
    parser.add_argument("--response", metavar="COLUMN", default="response", help="column of the response (response)")
    truth = "column of the right answer: a number, text with one, or a list of acceptable ones (ground_truth)"
    parser.add_argument("--truth", metavar="COLUMN", default="ground_truth", help=truth)
    style = "format of the answers; 'detect' finds the style of each response (gsm8k)"
    parser.add_argument("--style", choices=(*STYLES, DETECT), default="gsm8k", help=style)
    parser.add_argument("--math", action="store_true", help="compare ground truths that are no number by math-verify")
    parser.add_argument("--out", metavar="FILE", help="write each line with its rewards, value and reason added")
    parser.add_argument("--show", metavar="N", type=int, default=0, help="show the first N lines without a reward")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.grading import MathVerifier

    target = common.output_file(args.out)
    remedy = 'give lines like {"response": …, "ground_truth": …}'
    if args.file == "-":
        records = parse_jsonl(sys.stdin.buffer.read(), "stdin", remedy=remedy)
    else:
        records = read_jsonl(args.file, remedy=remedy)
    with MathVerifier() if args.math else nullcontext() as math:
        rows = [_graded(row, where, args, math) for where, row in records]
    if not rows:
        raise DataError(f"{args.file}: no lines", "give a file with one JSON object a line")
    if target is not None:
        with atomic_write(target) as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    summary = _summary(rows)
    if args.json:
        common.print_json(summary)
        return
    print(f"{summary['n']} responses")
    for name in ("accuracy", "format_accuracy", "accuracy_lenient"):
        if name in summary:
            print(f"{name:<20} {common.rate(summary, name)}")
    for reason, count in list(summary["why_no_reward"].items())[:10]:
        print(f"{count:>8}  {reason}")
    for row in [row for row in rows if not row["reward"]][: args.show]:
        tail = str(row[args.response])[-200:]
        print(f"\nreward 0, truth {row[args.truth]!r}, read {row['read']!r}: {row['reason']}\n  …{tail!r}")


def _graded(row: dict[str, Any], where: str, args: argparse.Namespace, math: MathVerifier | None) -> dict[str, Any]:
    from cs336_sft.grading import STYLES, detect_style, grade_response, lenient_reward_fn, read_answer

    for option, name in (("--response", args.response), ("--truth", args.truth)):
        if name not in row:
            remedy = f"name the column with {option}; there are {', '.join(row)}"
            raise DataError(f"{where}: no column {name!r}", remedy)
    response, truth = row[args.response], row[args.truth]
    if not isinstance(response, str):
        raise DataError(f"{where}: column {args.response!r} is {type(response).__name__}", "give a string")
    style = (detect_style(response) or STYLES[0]) if args.style == DETECT else args.style
    try:
        rewards = grade_response(response, truth, style, math=math)
        lenient = lenient_reward_fn(response, truth) if math is None else None
    except DataError as error:
        remedy = "correct it" if args.math else "correct it, or compare expressions with --math"
        raise DataError(f"{where}: {error.problem}", remedy) from error
    reading = read_answer(response, style)
    value = None if reading.value is None else str(reading.value)
    found = {"style": style, "read": reading.text.strip(), "value": value, "reason": reading.reason}
    return row | rewards | ({} if lenient is None else {"lenient": lenient}) | found


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from cs336_sft.evaluation.intervals import wilson_interval

    summary: dict[str, Any] = {"n": len(rows)}
    for name, key in (("accuracy", "reward"), ("format_accuracy", "format_reward"), ("accuracy_lenient", "lenient")):
        if key in rows[0]:
            interval = wilson_interval(sum(row[key] for row in rows), len(rows))
            summary |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    wrong = [row for row in rows if not row["reward"]]
    reasons = Counter("a number, but another" if row["value"] is not None else row["reason"] for row in wrong)
    return summary | {"why_no_reward": dict(reasons.most_common())}
