"""Agreement with labels and speed of this grader beside others, on labelled JSONL files given by path.

    python benchmarks/grader_benchmark.py tests/data/grader_cases.jsonl --out recorded/grader_benchmark.json

A line is ``{"response": …, "ground_truth": …, "correct": 0 or 1, "style": …}``; ``style`` is what the prompt asked
for (``--style`` where a file has none). Where ``FILE.rounds.json`` stands beside ``FILE.jsonl``, it tells how the set
came about (its rounds, and how each was first met) and goes into the results. A ``--references FOLDER`` with GSM8K's
``train.jsonl`` and ``test.jsonl`` adds the speed on its 8,792 reference answers. Peers are imported when they are
asked for and left out, with a note, where they are missing: math-verify (``pip install "math-verify[antlr4_13_2]"``),
the assignment's grader (``--assignment`` path of its ``drgrpo_grader.py``, not part of this project).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

from cs336_sft.evaluation.intervals import wilson_interval  # noqa: E402
from cs336_sft.grading import grade_response, lenient_reward_fn  # noqa: E402

SECONDS_A_CASE = 10
REPEATS = 5


@dataclass(frozen=True)
class Case:
    """One labelled answer."""

    response: str
    ground_truth: object
    correct: bool
    style: str


Grader = Callable[[Case], bool]


def read_rounds(path: Path) -> dict | None:
    """How a labelled file came about, from the ``.rounds.json`` beside it; None where there is none.

    Raises:
        ValueError: its numbers of cases are not those of the labelled file.
    """
    beside = path.with_suffix(".rounds.json")
    if not beside.is_file():
        return None
    history = json.loads(beside.read_text(encoding="utf-8"))
    told = {row["round"]: row["cases"] for row in history["rounds"]}
    found = Counter(json.loads(line).get("round") for line in path.read_text(encoding="utf-8").splitlines())
    if told != dict(found):
        raise ValueError(f"{beside.name} tells of rounds {told}, {path.name} has {dict(found)}: bring them into line")
    return history


def read_cases(path: Path, style: str) -> list[Case]:
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        cases.append(Case(row["response"], row["ground_truth"], bool(row["correct"]), row.get("style", style)))
    return cases


def first_truth(case: Case) -> str:
    """Peers take one string; of several acceptable truths they get the first."""
    truth = case.ground_truth[0] if isinstance(case.ground_truth, list) else case.ground_truth
    return str(truth)


def ours(case: Case) -> bool:
    return grade_response(case.response, case.ground_truth, case.style, strict=False)["reward"] == 1.0


def ours_lenient(case: Case) -> bool:
    return lenient_reward_fn(case.response, case.ground_truth) == 1.0


# OpenAI, grade-school-math, dataset.py (MIT licence).
_OPENAI = re.compile(r"#### (\-?[0-9\.\,]+)")


def _openai_extract(completion: str) -> str:
    match = _OPENAI.search(completion)
    return match.group(1).strip().replace(",", "") if match else "[invalid]"


def openai(case: Case) -> bool:
    truth = first_truth(case)
    expected = _openai_extract(truth) if "####" in truth else truth.strip().replace(",", "")
    return _openai_extract(case.response) == expected


# EleutherAI, lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml, version 3 (MIT licence).
_HARNESS_STOP = ("Question:", "</s>", "<|im_end|>")
_HARNESS_IGNORED = (re.compile(","), re.compile(r"\$"), re.compile(r"(?s).*#### "), re.compile(r"\.$"))
_HARNESS_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def _harness_text(response: str) -> str:
    for stop in _HARNESS_STOP:
        response = response.split(stop)[0]
    return response


def _harness_equal(prediction: str, truth: str) -> bool:
    for pattern in _HARNESS_IGNORED:
        prediction, truth = pattern.sub("", prediction), pattern.sub("", truth)
    return prediction.lower() == truth.lower()


def harness_strict(case: Case) -> bool:
    found = _OPENAI.findall(_harness_text(case.response))
    return _harness_equal(found[0].strip() if found else "[invalid]", first_truth(case))


def harness_flexible(case: Case) -> bool:
    found = _HARNESS_FLEXIBLE.findall(_harness_text(case.response))
    groups = [group for group in found[-1] if group] if found else []
    return _harness_equal(groups[0].strip() if groups else "[invalid]", first_truth(case))


def math_verify_grader() -> Grader:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def grade(case: Case) -> bool:
        truth = first_truth(case)
        if "####" in truth:
            truth = truth.rsplit("####", 1)[1].strip()
        return bool(verify(parse(f"${truth}$"), parse(case.response)))

    return grade


def assignment_grader(path: Path) -> Grader:
    """The assignment's ``r1_zero_reward_fn`` and ``question_only_reward_fn``; the first for `####` too."""
    spec = importlib.util.spec_from_file_location("drgrpo_grader", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def grade(case: Case) -> bool:
        box = case.style == "question_only"
        reward_fn = module.question_only_reward_fn if box else module.r1_zero_reward_fn
        return reward_fn(case.response, first_truth(case))["reward"] == 1.0

    return grade


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """TimeoutError after so many seconds. For peers that evaluate model text."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def agreement(grader: Grader, cases: list[Case]) -> dict:
    """How often a grader says what the label says; an exception or a timeout is a "wrong"."""
    said, failures = [], 0
    start = time.perf_counter()
    for case in cases:
        try:
            with alarm(SECONDS_A_CASE):
                said.append(grader(case))
        except Exception:  # peers break in many ways on hostile text; counted, not hidden
            said.append(False)
            failures += 1
    seconds = time.perf_counter() - start
    pairs = [(verdict, case.correct) for verdict, case in zip(said, cases, strict=True)]
    accepted, right = sum(v for v, _ in pairs), sum(c for _, c in pairs)
    both = sum(v and c for v, c in pairs)
    interval = wilson_interval(sum(v == c for v, c in pairs), len(pairs))
    return {
        "n": len(pairs),
        "agreement": interval.value,
        "agreement_low": interval.low,
        "agreement_high": interval.high,
        "false_accepts": accepted - both,
        "false_rejects": right - both,
        "precision": both / accepted if accepted else None,
        "recall": both / right if right else None,
        "failures": failures,
        "grades_per_second": len(pairs) / seconds,
    }


def reference_speed(grader: Grader, folder: Path, style: str, limit: int | None = None) -> float:
    """Grades a second on GSM8K's reference answers in a style, the best of several rounds."""
    from cs336_sft.prompts import get_template
    from cs336_sft.records import Problem

    cases = []
    for split in ("train", "test"):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            final = row["answer"].rsplit("####", 1)[1].strip().replace(",", "")
            response = get_template(style).respond(Problem(row["question"], row["answer"], final))
            cases.append(Case(response, final, True, style))
    cases = cases[:limit]
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        right = sum(grader(case) for case in cases)
        best = min(best, time.perf_counter() - start)
    print(f"  {style}: {right} of {len(cases)} right, {len(cases) / best:,.0f} grades/s", file=sys.stderr)
    return len(cases) / best


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def graders(assignment: str | None) -> dict[str, Grader]:
    found: dict[str, Grader] = {
        "cs336_sft": ours,
        "cs336_sft, lenient": ours_lenient,
        "lm-evaluation-harness, flexible-extract": harness_flexible,
        "lm-evaluation-harness, strict-match": harness_strict,
        "OpenAI grade-school-math": openai,
    }
    try:
        found["math-verify"] = math_verify_grader()
    except ImportError as error:
        print(f"math-verify is left out: {error}", file=sys.stderr)
    if assignment:
        found["CS336 assignment"] = assignment_grader(Path(assignment))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="labelled JSONL files")
    parser.add_argument("--style", default="gsm8k", help="style of lines that name none (gsm8k)")
    parser.add_argument("--references", type=Path, help="folder of GSM8K's train.jsonl and test.jsonl")
    parser.add_argument("--assignment", help="path of the assignment's drgrpo_grader.py")
    parser.add_argument("--note", action="append", default=[], help="a remark that goes into the results")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()

    named = graders(args.assignment)
    result: dict = {
        "config": {"files": [path.name for path in args.files], "seconds_a_case": SECONDS_A_CASE, "repeats": REPEATS},
        "notes": args.note,
        "rounds": {path.name: history for path in args.files if (history := read_rounds(path))},
        "versions": versions(),
        "cpu": cpu_name(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "seed": None,  # nothing here is random
        "files": {},
    }
    for path in args.files:
        cases = read_cases(path, args.style)
        rows = {name: agreement(grader, cases) for name, grader in named.items()}
        result["files"][path.name] = rows
        print(f"\n{path.name}: {len(cases)} cases, {sum(case.correct for case in cases)} of them right")
        print(
            f"{'grader':<42}{'agreement':>10}{'false accepts':>15}{'false rejects':>15}{'failures':>10}{'grades/s':>10}"
        )
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["agreement"]):
            print(
                f"{name:<42}{100 * row['agreement']:>8.1f} %{row['false_accepts']:>15}{row['false_rejects']:>15}"
                f"{row['failures']:>10}{row['grades_per_second']:>10,.0f}"
            )
    if args.references:
        print("\nGSM8K's references, grades a second", file=sys.stderr)
        result["references"] = {
            style: reference_speed(ours, args.references, style) for style in ("gsm8k", "r1_zero", "question_only")
        }
        if "math-verify" in named:
            result["references"]["math-verify, 500 of them"] = reference_speed(
                named["math-verify"], args.references, "question_only", 500
            )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
