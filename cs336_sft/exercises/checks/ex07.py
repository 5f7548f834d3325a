"""ex07: grade the number after the last ``####``."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from cs336_sft.exercises.compare import Check, entries, slips
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.sandbox.perform import Case, Observation

CASES = [
    Case((response, truth), label=f"response {response[:80]!r}, ground truth {truth!r}", why=why)
    for response, truth, why in read_asset("cases")["ex07"]
]
_DIGITS = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(r"[-+]?\$?[.,]*\d[\d.,]*")  # whatever looks like one
_UNGROUPED = re.compile(r"[-+]?\$?(?:\d+(?:\.\d+)?|\.\d+)")
_READABLE = re.compile(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d*)(\.\d+)?[.,]*")


def _value(text: str) -> Decimal:
    return Decimal(re.sub("[,$]", "", text).rstrip("."))


def _line(text: str) -> str | None:
    return text.rsplit("####", 1)[1].split("\n", 1)[0].strip() if "####" in text else None


def _grader(
    *,
    cut: Callable[[str], str] = lambda text: re.split(r"(?m)^Question:", text)[0],
    span: Callable[[str], str | None] = lambda text: _line(text),
    numbers: Callable[[str], list[str]] = _NUMBER.findall,
    choose: Callable[[list[str]], str | None] = lambda found: found[0] if len(found) == 1 else None,
    equal: Callable[[str, str], bool] = lambda a, b: _value(a) == _value(b),
    form: Callable[[str | None, str | None], bool] = lambda span, number: bool(span),
    loose: bool = False,
) -> Callable[..., dict[str, float]]:
    """Make the contract's grader, or, with one part replaced, one with a slip."""

    def grade(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
        found = span(cut(response))
        number = choose(numbers(found)) if found else None
        formatted = float(form(found, number))
        readable = number is not None and (loose or _READABLE.fullmatch(number))
        right = float(bool(readable) and equal(number, ground_truth))
        return {"format_reward": formatted, "answer_reward": right, "reward": formatted * right}

    return grade


_REFERENCE = _grader()
SLIPS = slips(
    "ex07",
    {
        "last-number-of-text": _grader(
            span=lambda t: t if "####" in t else None,
            choose=lambda f: f[-1] if f else None,
            form=lambda s, n: s is not None,
        ),
        "first-marker": _grader(span=lambda t: t.split("####")[1].split("\n")[0].strip() if "####" in t else None),
        "next-question": _grader(cut=lambda t: t),
        "stops-at-comma": _grader(numbers=lambda t: _UNGROUPED.findall(t.split(",")[0])),
        "comma-splits": _grader(numbers=_UNGROUPED.findall),
        "joins-digits": _grader(numbers=lambda t: _NUMBER.findall(t.replace(" ", ""))),
        "first-of-several": _grader(choose=lambda f: f[0] if f else None),
        "last-of-several": _grader(choose=lambda f: f[-1] if f else None),
        "sign-of-response-lost": _grader(numbers=re.compile(_DIGITS).findall),
        "compares-text": _grader(equal=lambda a, b: re.sub("[,$]", "", a) == re.sub("[,$]", "", b)),
        "substring": _grader(equal=lambda a, b: re.sub("[,$]", "", b) in re.sub("[,$]", "", a)),
        "tolerance": _grader(equal=lambda a, b: abs(float(_value(a)) - float(_value(b))) <= 0.02),
        "float-equality": _grader(equal=lambda a, b: float(_value(a)) == float(_value(b))),
        "format-needs-digit": _grader(form=lambda s, n: bool(s) and re.search(r"\d", s) is not None),
        "format-of-marker": _grader(form=lambda s, n: s is not None),
        "rest-of-text": _grader(span=lambda t: t.rsplit("####", 1)[1].strip() if "####" in t else None),
        "bare-number": _grader(numbers=lambda t: [t] if re.fullmatch(f"[-+]?{_DIGITS}", t) else []),
        "digit-first": _grader(numbers=re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?").findall),
        "format-needs-number": _grader(form=lambda s, n: bool(n and _READABLE.fullmatch(n))),
        "right-only": lambda r, t, fast=True: dict.fromkeys(_REFERENCE(r, t), _REFERENCE(r, t)["reward"]),
        "truth-with-commas": _grader(equal=lambda a, b: "," not in b and _value(a) == _value(b)),
        "absolute": _grader(equal=lambda a, b: abs(_value(a)) == abs(_value(b))),
        "rounds": _grader(equal=lambda a, b: round(_value(a)) == round(_value(b))),
        "loose-commas": _grader(loose=True),
        "question-anywhere": _grader(cut=lambda t: t.split("Question:")[0]),
        "question-after-newline": _grader(cut=lambda t: t.split("\nQuestion:")[0]),
        "question-any-case": _grader(cut=lambda t: re.split(r"(?mi)^Question:", t)[0]),
        "small-tolerance": _grader(equal=lambda a, b: abs(_value(a) - _value(b)) < 1e-4),
        "next-line": _grader(span=lambda t: t.rsplit("####", 1)[1].strip().split("\n")[0] if "####" in t else None),
        "equal-once": _grader(choose=lambda f: f[0] if len(set(f)) == 1 else None),
        "skips-unreadable": _grader(numbers=lambda t: [x for x in _NUMBER.findall(t) if _READABLE.fullmatch(x)]),
        "non-empty-marker": _grader(span=lambda t: _line(re.sub(r"(####\s*)+\Z", "", t))),
        "crashes-on-words": _grader(choose=lambda f: None if len(f) > 1 else f[0]),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    return entries(seen.value, ("format_reward", "answer_reward", "reward"), (bool, int, float))


CHECKS = (Check("gsm8k_reward_fn", CASES, _REFERENCE, SLIPS, _view),)
