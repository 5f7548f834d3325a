"""ex01: token lengths and their percentiles."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cs336_sft.data.token_lengths import PERCENTILES, LengthTable, length_percentiles, token_lengths
from cs336_sft.exercises.compare import Misshapen, Slip, compare
from cs336_sft.exercises.report import Failure
from cs336_sft.exercises.sandbox.objects import TokenizerSpec
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.exercises.sandbox.runner import Session
from cs336_sft.prompts import get_template
from cs336_sft.records import Problem

_WORDS = ("<pad>", "<eos>", "<bos>", "?", "Question", "Answer", ":", "####", "has", "2", "3", "5", "+", "=", "<<", ">>")
_PROBLEMS = [
    Problem("2 + 3?", "2 + 3 = <<2+3=5>> 5\n#### 5", "5"),
    Problem("Ann has 2, Ben has 3 more.", "2 + 3 = 5\n#### 5", "5"),
    Problem("Tom has 3.", "#### 3", "3"),
]


def _cases() -> list[Case]:
    plain = TokenizerSpec(_WORDS)
    greedy = TokenizerSpec(_WORDS, bos="<bos>")
    template = get_template("gsm8k")
    return [
        Case((_PROBLEMS[:1], get_template("question_only"), plain), label="one problem, prompt = the question alone"),
        Case((_PROBLEMS, template, plain), label="three problems, the gsm8k template"),
        Case((_PROBLEMS, template, greedy), label="three problems, a tokenizer that puts <bos> before every text"),
        Case(([], template, plain), label="no problems", why="no problems: the table is empty, not an error"),
    ]


def _counting(
    prompt: Callable[[Problem, Any], str],
    answer: Callable[[Problem, Any], str],
    count: Callable[[str, Any], int],
) -> Callable[..., LengthTable]:
    def lengths(problems: Sequence[Problem], template: Any, tokenizer: Any) -> LengthTable:
        return LengthTable(
            tuple(count(prompt(p, template), tokenizer) for p in problems),
            tuple(count(answer(p, template), tokenizer) for p in problems),
        )

    return lengths


def _tokens(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _prompt(problem: Problem, template: Any) -> str:
    return template.prompt(problem)


def _answer(problem: Problem, template: Any) -> str:
    return problem.answer


LENGTH_SLIPS = (
    Slip(
        "characters",
        "counts characters; the limits of a model are in tokens",
        _counting(_prompt, _answer, lambda t, _: len(t)),
    ),
    Slip(
        "words",
        "counts words between blanks; a tokenizer cuts differently",
        _counting(_prompt, _answer, lambda t, _: len(t.split())),
    ),
    Slip(
        "special-tokens",
        "counts the <bos> that this tokenizer adds to every text: pass add_special_tokens=False",
        _counting(_prompt, _answer, lambda t, tokenizer: len(tokenizer(t)["input_ids"])),
    ),
    Slip(
        "bare-question",
        "counts the question alone; the prompt is what template.prompt makes of it",
        _counting(lambda p, _: p.question, _answer, _tokens),
    ),
    Slip(
        "no-annotations",
        "counts the answer without its <<...>> annotations; the model is trained on the raw answer",
        _counting(_prompt, lambda p, _: re.sub(r"<<.*?>>", "", p.answer), _tokens),
    ),
    Slip(
        "final-only",
        "counts the final number only; the answer is the whole reference text",
        _counting(_prompt, lambda p, _: p.final, _tokens),
    ),
    Slip(
        "eos-counted",
        "counts one more token for each answer: end-of-text is not part of the raw answer",
        lambda p, t, k: LengthTable(token_lengths(p, t, k).prompt, tuple(n + 1 for n in token_lengths(p, t, k).answer)),
    ),
    Slip(
        "total-as-answer",
        "gives prompt and answer together as the answer's length",
        lambda p, t, k: LengthTable(token_lengths(p, t, k).prompt, token_lengths(p, t, k).total),
    ),
    Slip(
        "sorted",
        "sorts the lengths: entry i of prompt and of answer must belong to the same problem",
        lambda p, t, k: LengthTable(
            tuple(sorted(token_lengths(p, t, k).prompt)), tuple(sorted(token_lengths(p, t, k).answer))
        ),
    ),
)


def _rows(of: Callable[[LengthTable, str, float], float]) -> Callable[[LengthTable], dict[str, dict[str, float]]]:
    return lambda table: {
        part: {f"{p:g}": float(of(table, part, p)) for p in PERCENTILES} for part in ("prompt", "answer", "total")
    }


def _percentile(table: LengthTable, part: str, p: float) -> float:
    return float(np.percentile(getattr(table, part), p))


PERCENTILE_SLIPS = (
    Slip(
        "sum-of-percentiles",
        "adds the percentiles of prompt and answer: the percentile of a sum is not the sum of percentiles",
        _rows(
            lambda t, part, p: (
                _percentile(t, "prompt", p) + _percentile(t, "answer", p)
                if part == "total"
                else _percentile(t, part, p)
            )
        ),
    ),
    Slip(
        "nearest-rank",
        "takes the nearest entry; the contract asks for numpy.percentile's linear interpolation",
        _rows(lambda t, part, p: np.percentile(getattr(t, part), p, method="nearest")),
    ),
    Slip(
        "lower-rank",
        "takes the entry below; the contract asks for numpy.percentile's linear interpolation",
        _rows(lambda t, part, p: np.percentile(getattr(t, part), p, method="lower")),
    ),
    Slip(
        "quantile-of-percent",
        "reads 50 as the fraction 0.5 %: numpy.percentile takes percent, numpy.quantile fractions",
        _rows(lambda t, part, p: np.percentile(getattr(t, part), p / 100)),
    ),
    Slip(
        "rounded",
        "rounds to whole tokens; keep the interpolated value",
        _rows(lambda t, part, p: round(_percentile(t, part, p))),
    ),
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


def check(session: Session) -> Failure | None:
    failure = compare(session, "token_lengths", _cases(), token_lengths, LENGTH_SLIPS, view=_length_view)
    if failure:
        return failure
    cases = [
        Case((LengthTable((10, 20), (4, 1)),), label="prompt lengths 10 and 20, answer lengths 4 and 1"),
        Case((LengthTable((5, 9, 7, 30), (8, 2, 40, 3)),), label="prompt 5 9 7 30, answer 8 2 40 3"),
        Case((LengthTable((7,), (3,)),), label="one problem"),
    ]
    return compare(session, "length_percentiles", cases, length_percentiles, PERCENTILE_SLIPS, view=_percentile_view)
