"""``cs336-sft grade``: grade a file of generations, wherever they come from.

    cs336-sft grade generations.jsonl --response output --truth answer --style detect --out graded.jsonl --show 5

Needs nothing but the standard library, except ``--math`` (the optional extra of that name).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common
from cs336_sft.errors import DataError

if TYPE_CHECKING:
    from cs336_sft.grading import MathVerifier

DETECT = "detect"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    from cs336_sft.grading import STYLES

    parser = subparsers.add_parser(
        "grade",
        help="grade a JSONL file of generations",
        description="Grades each line of a JSONL file: is the demanded structure there, and is its number right?",
    )
    parser.add_argument("file", metavar="FILE.jsonl", help="one JSON object a line; - reads stdin")
    parser.add_argument("--response", metavar="COLUMN", default="response", help="column of the response (response)")
    parser.add_argument(
        "--truth",
        metavar="COLUMN",
        default="ground_truth",
        help="column of the right answer: a number, text that holds one, or a list of acceptable ones (ground_truth)",
    )
    parser.add_argument(
        "--style",
        choices=(*STYLES, DETECT),
        default="gsm8k",
        help="where the answer stands; 'detect' looks for each response's own (gsm8k)",
    )
    parser.add_argument("--strict", action="store_true", help="r1_zero: demand the literal '</think> <answer>'")
    parser.add_argument("--math", action="store_true", help="truths that are no number go to math-verify")
    parser.add_argument("--out", metavar="FILE", help="write each line with its verdicts, value and reason added")
    parser.add_argument("--show", metavar="N", type=int, default=0, help="show the first N that got no reward")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    target = common.output_file(args.out)
    if args.math:
        from cs336_sft.grading import MathVerifier

        with MathVerifier() as math:
            rows = [_graded(row, where, args, math) for where, row in _rows(args.file)]
    else:
        rows = [_graded(row, where, args, None) for where, row in _rows(args.file)]
    if not rows:
        raise DataError(f"{args.file}: no lines", "give a file with one JSON object a line")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    summary = _summary(rows)
    if args.json:
        common.print_json(summary)
        return 0
    _print(summary)
    for row in [row for row in rows if not row["reward"]][: args.show]:
        tail = str(row[args.response])[-200:]
        print(f"\nreward 0, truth {row[args.truth]!r}, read {row['read']!r}: {row['reason']}\n  …{tail!r}")
    return 0


def _rows(file: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, record) of each line."""
    name = "stdin" if file == "-" else file
    stream = sys.stdin if file == "-" else Path(file).open(encoding="utf-8", errors="surrogateescape")
    with stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{name}, line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error})", "give one JSON object a line") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: not a JSON object", 'give lines like {"response": …, "ground_truth": …}')
            yield where, row


def _column(row: dict[str, Any], name: str, option: str, where: str) -> Any:
    if name not in row:
        raise DataError(f"{where}: no column {name!r}", f"name the column with {option}; there are {', '.join(row)}")
    return row[name]


def _graded(row: dict[str, Any], where: str, args: argparse.Namespace, math: MathVerifier | None) -> dict[str, Any]:
    from cs336_sft.grading import STYLES, detect_style, grade, lenient_reward_fn, read_answer

    response = _column(row, args.response, "--response", where)
    truth = _column(row, args.truth, "--truth", where)
    if not isinstance(response, str):
        raise DataError(f"{where}: column {args.response!r} is {type(response).__name__}", "give a string")
    style = (detect_style(response) or STYLES[0]) if args.style == DETECT else args.style
    try:
        verdict = grade(response, truth, style, strict=args.strict, math=math)
        lenient = lenient_reward_fn(response, truth) if math is None else None
    except ValueError as error:
        remedy = "correct it" if args.math else "correct it, or grade expressions with --math"
        raise DataError(f"{where}: {error}", remedy) from error
    reading = read_answer(response, style, strict=args.strict)
    found = {"style": style, "read": reading.text.strip(), "value": _text(reading.value), "reason": reading.reason}
    return row | verdict | ({} if lenient is None else {"lenient": lenient}) | found


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    from cs336_sft.evaluation.intervals import wilson_interval

    summary: dict[str, Any] = {"n": len(rows)}
    for name, key in (("accuracy", "reward"), ("format_accuracy", "format_reward"), ("accuracy_lenient", "lenient")):
        if key not in rows[0]:
            continue
        interval = wilson_interval(sum(row[key] for row in rows), len(rows))
        summary |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    reasons = Counter(
        "a number, but another" if row["value"] is not None else row["reason"] for row in rows if not row["reward"]
    )
    summary["why_no_reward"] = dict(reasons.most_common())
    return summary


def _print(summary: dict[str, Any]) -> None:
    print(f"{summary['n']} responses")
    for name in ("accuracy", "format_accuracy", "accuracy_lenient"):
        if name in summary:
            print(f"{name:<20} {common.rate(summary, name)}")
    for reason, count in list(summary["why_no_reward"].items())[:10]:
        print(f"{count:>8}  {reason}")
