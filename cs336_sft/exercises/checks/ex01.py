"""ex01: token lengths and their percentiles."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cs336_sft.data.token_lengths import PERCENTILES, LengthTable, length_percentiles
from cs336_sft.exercises.checks.objects import word_tokenizer
from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.prompts import PromptTemplate, get_template
from cs336_sft.records import Problem

_WORDS = ("<pad>", "<eos>", "<bos>", "?", "Question", "Answer", ":", "####", "has", "2", "3", "5", "+", "=", "<<", ">>")
_PROBLEMS = [
    Problem("2 + 3?", "2 + 3 = <<2+3=5>> 5\n#### 5", "5"),
    Problem("Ann has 2, Ben has 3 more.", "2 + 3 = 5\n#### 5", "5"),
    Problem("Tom has 3.", "#### 3", "3"),
    Problem("Tom has 3.", "  3 is  what he has:\n\n#### 3\n", "3"),
]


def _cases() -> list[Case]:
    plain = word_tokenizer(_WORDS)
    greedy = word_tokenizer(_WORDS, bos="<bos>")
    template = get_template("gsm8k")
    blanks = word_tokenizer((*_WORDS, " ", "\n"), bos="<bos>", blanks=True, limit=4)
    around = PromptTemplate("around", "\n {question}\n\n", lambda p: p.answer, "gsm8k")
    return [
        Case((_PROBLEMS[:1], get_template("question_only"), plain), label="one problem, prompt = the question alone"),
        Case((_PROBLEMS, template, plain), label="four problems, the gsm8k template"),
        Case((_PROBLEMS, template, greedy), label="four problems, a tokenizer that puts <bos> before every text"),
        Case((_PROBLEMS, around, blanks), label="blanks at the ends of the texts; each is a token of this tokenizer"),
        Case((_PROBLEMS[::-1] * 2, around, blanks), label="every problem twice"),
        Case(([], template, plain), label="no problems", why="no problems: the table is empty, not an error"),
    ]


def _counting(
    prompt: Callable[[Problem, Any], str] = lambda problem, template: template.prompt(problem),
    answer: Callable[[Problem], str] = lambda problem: problem.answer,
    count: Callable[[str, Any], int] = lambda text, k: len(k(text, add_special_tokens=False)["input_ids"]),
) -> Callable[..., LengthTable]:
    """Make the reference, or, with one part replaced, a slip."""

    def lengths(problems: Sequence[Problem], template: Any, tokenizer: Any) -> LengthTable:
        return LengthTable(
            tuple(count(prompt(p, template), tokenizer) for p in problems),
            tuple(count(answer(p), tokenizer) for p in problems),
        )

    return lengths


def _changed(change: Callable[[LengthTable], tuple[tuple[int, ...], tuple[int, ...]]]) -> Callable[..., LengthTable]:
    return lambda problems, template, tokenizer: LengthTable(*change(_counting()(problems, template, tokenizer)))


LENGTH_SLIPS = slips(
    "ex01-lengths",
    {
        "characters": _counting(count=lambda t, _: len(t)),
        "words": _counting(count=lambda t, _: len(t.split())),
        "special-tokens": _counting(count=lambda t, tokenizer: len(tokenizer(t)["input_ids"])),
        "bare-question": _counting(lambda p, _: p.question),
        "no-annotations": _counting(answer=lambda p: re.sub(r"<<.*?>>", "", p.answer)),
        "truncated": _counting(count=lambda t, k: len(k(t, add_special_tokens=False, truncation=True)["input_ids"])),
        "stripped-prompt": _counting(lambda p, template: template.prompt(p).strip()),
        "final-line-cut": _counting(answer=lambda p: p.answer.split("####")[0]),
        "padded": _changed(lambda t: tuple((max(c, default=0),) * len(c) for c in (t.prompt, t.answer))),
        "eos-counted": _changed(lambda table: (table.prompt, tuple(n + 1 for n in table.answer))),
        "total-as-answer": _changed(lambda table: (table.prompt, table.total)),
        "sorted": _changed(lambda table: (tuple(sorted(table.prompt)), tuple(sorted(table.answer)))),
    },
)


def _rows(of: Callable[[LengthTable, str, float], float]) -> Callable[[LengthTable], dict[str, dict[str, float]]]:
    return lambda table: {
        part: {f"{p:g}": float(of(table, part, p)) for p in PERCENTILES} for part in ("prompt", "answer", "total")
    }


PERCENTILE_SLIPS = slips(
    "ex01-percentiles",
    {
        "sum-of-percentiles": _rows(
            lambda t, part, p: sum(
                np.percentile(getattr(t, name), p) for name in (("prompt", "answer") if part == "total" else (part,))
            )
        ),
        "rounded": _rows(lambda t, part, p: round(np.percentile(getattr(t, part), p))),
        "pooled": _rows(
            lambda t, part, p: np.percentile(t.prompt + t.answer if part == "total" else getattr(t, part), p)
        ),
        "nearest-rank": _rows(lambda t, part, p: np.percentile(getattr(t, part), p, method="nearest")),
        "quantile-of-percent": _rows(lambda t, part, p: np.percentile(getattr(t, part), p / 100)),
    },
)


def _length_view(case: Case, seen: Observation) -> Any:
    table = seen.value
    if not isinstance(table, LengthTable):
        return Misshapen("token_lengths returns something else than a LengthTable(prompt=..., answer=...)")
    return {"prompt": list(table.prompt), "answer": list(table.answer)}


def _percentile_view(case: Case, seen: Observation) -> Any:
    table = seen.value
    if not isinstance(table, dict) or any(not isinstance(row, dict) for row in table.values()):
        return Misshapen('length_percentiles returns something else than {"prompt": {"50": ...}, ...}')
    if any(not isinstance(key, str) for row in table.values() for key in row):
        return Misshapen('the keys of a row are texts: "50", "90", "95", "99", "99.5"')
    return table


def _lengths(n: int) -> list[tuple[int, ...]]:
    draw = random.Random(n)
    return [tuple(int(draw.lognormvariate(mean, 1)) for _ in range(n)) for mean in (4, 5)]


PERCENTILE_CASES = (
    Case((LengthTable((10, 20), (4, 1)),), label="prompt lengths 10 and 20, answer lengths 4 and 1"),
    Case((LengthTable((5, 9, 7, 30), (8, 2, 40, 3)),), label="prompt 5 9 7 30, answer 8 2 40 3"),
    Case((LengthTable((7,), (3,)),), label="one problem"),
    Case(
        (LengthTable((30_000, 5, 12, 5), (10_000, 7, 0, 7)),), label="lengths of 0 and of 30,000 tokens, and equal ones"
    ),
    *(Case((LengthTable(*_lengths(seed)),), label="random lengths") for seed in (40, 101)),
)
# The first reference is the exercise's own: the library's function also lets prompts begin with BOS.
CHECKS = (
    Check("token_lengths", _cases(), _counting(), LENGTH_SLIPS, _length_view),
    Check("length_percentiles", PERCENTILE_CASES, length_percentiles, PERCENTILE_SLIPS, _percentile_view),
)
