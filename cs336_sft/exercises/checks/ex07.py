"""ex07: grade the number after the last ``####``."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from cs336_sft.exercises.compare import Misshapen, Slip, compare
from cs336_sft.exercises.report import Failure
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.exercises.sandbox.runner import Session
from cs336_sft.grading import gsm8k_reward_fn

KEYS = ("format_reward", "answer_reward", "reward")

# (response, ground truth, what it is about)
RESPONSES = (
    ("2 + 3 = 5\n#### 5", "5", ""),
    ("#### 7", "5", ""),
    ("####5", "5", "a blank after the marker is usual, not demanded"),
    ("It is 5.", "5", "without #### there is neither format nor answer"),
    ("#### ", "5", "nothing follows the marker: format_reward is 0"),
    ("", "5", "an empty response gets nothing"),
    ("#### none", "5", "what follows is unreadable: the structure is there, so format_reward is 1, answer_reward 0"),
    ("#### 5\n", "5", ""),
    ("#### 18 dollars", "18", "a unit behind the number"),
    ("#### $18", "18", "a currency sign"),
    ("#### 18.", "18", "a trailing full stop"),
    ("#### 1,080", "1080", "a thousands separator in the response"),
    ("#### 1080", "1,080", "a thousands separator in the ground truth"),
    ("#### 1,080", "1", "a thousands separator does not end the number"),
    ("#### $1,234,567.50.", "1234567.5", "all of it at once"),
    ("#### -5", "-5", "a negative answer"),
    ("#### -5", "5", "-5 is not 5"),
    ("#### 5", "-5", "5 is not -5"),
    ("#### 18.0", "18", "equal by value"),
    ("#### 18.50", "18.5", "equal by value"),
    ("#### 0.5", "5", "0.5 is not 5"),
    ("#### 18.5", "18", "18.5 is not 18"),
    ("#### 118", "18", "118 only ends in 18"),
    ("#### 18", "118", "18 is only a part of 118"),
    ("#### 1000.01", "1000", "near is not equal"),
    ("#### 9007199254740993", "9007199254740992", "floats can't tell these two numbers apart"),
    ("#### 1 8", "18", '"1 8" is two numbers'),
    ("#### 1 8", "8", '"1 8" is two numbers, not the last of them'),
    ("#### 1 8", "1", '"1 8" is two numbers, not the first of them'),
    ("#### 5 or 7", "5", "two numbers are no answer"),
    ("#### 3\nNo, wait.\n#### 5", "5", "the last #### counts"),
    ("#### 3\nNo, wait.\n#### 5", "3", "the last #### counts, not the first"),
    ("#### 5\nThat took 7 steps.", "5", "only the marker's line is read"),
    ("#### 5\nThat took 7 steps.", "7", "a number after the answer's line is not the answer"),
    ("#### 5\n\nQuestion: Tom has 3.\nAnswer: 3\n#### 3", "5", "the answer stands before an invented next question"),
    (
        "#### 5\n\nQuestion: Tom has 3.\nAnswer: 3\n#### 3",
        "3",
        "the answer to an invented next question does not count",
    ),
    ("#### 4 5\n#### 5", "5", "the last #### counts"),
    ("The price is 5.\n#### the price", "5", "a number before the marker is not the answer"),
)


def _cases() -> list[Case]:
    return [
        Case((response, truth), label=f"response {response!r}, ground truth {truth!r}", why=why)
        for response, truth, why in RESPONSES
    ]


_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def _value(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _grader(
    *,
    cut: Callable[[str], str] = lambda text: re.split(r"(?m)^\s*Question:", text)[0],
    span: Callable[[str], str | None] = lambda text: (
        text.rsplit("####", 1)[1].split("\n", 1)[0].strip() if "####" in text else None
    ),
    numbers: Callable[[str], list[str]] = _NUMBER.findall,
    choose: Callable[[list[str]], str | None] = lambda found: found[0] if len(found) == 1 else None,
    equal: Callable[[str, str], bool] = lambda a, b: _value(a) == _value(b),
    form: Callable[[str | None, str | None], bool] = lambda span, number: bool(span),
) -> Callable[..., dict[str, float]]:
    """A grader of the contract, or, with one part replaced, one with a slip."""

    def grade(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
        found = span(cut(response))
        number = choose(numbers(found)) if found else None
        formatted = float(form(found, number))
        right = float(number is not None and equal(number, ground_truth))
        return {"format_reward": formatted, "answer_reward": right, "reward": formatted * right}

    return grade


def _float_strict(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    right = _grader()
    text = re.split(r"(?m)^\s*Question:", response)[0]
    found = text.rsplit("####", 1)[1].split("\n", 1)[0].strip() if "####" in text else ""
    if found and not _NUMBER.search(found):
        raise ValueError(found)
    return right(response, ground_truth)


def _last_number(response: str, ground_truth: str) -> dict[str, float]:
    """The number may stand anywhere, as long as there is a marker."""
    text = re.split(r"(?m)^\s*Question:", response)[0]
    if "####" not in text:
        return dict.fromkeys(KEYS, 0.0)
    found = _NUMBER.findall(text)
    right = float(bool(found) and _value(found[-1]) == _value(ground_truth))
    return {"format_reward": 1.0, "answer_reward": right, "reward": right}


SLIPS = (
    Slip(
        "last-number-of-text",
        "reads the last number of the whole response, marker or not",
        lambda r, t, fast=True: _last_number(r, t),
    ),
    Slip(
        "last-number",
        "reads the last number of the whole response, marker or not",
        _grader(span=lambda t: t, choose=lambda f: f[-1] if f else None, form=lambda s, n: "####" in s),
    ),
    Slip(
        "last-number-uncut",
        "reads the last number of the whole response, even an invented next question's",
        _grader(
            cut=lambda t: t, span=lambda t: t, choose=lambda f: f[-1] if f else None, form=lambda s, n: "####" in s
        ),
    ),
    Slip(
        "first-marker",
        "reads the first ####; the last one counts",
        _grader(span=lambda t: t.split("####")[1].split("\n")[0].strip() if "####" in t else None),
    ),
    Slip(
        "next-question",
        "reads the #### of a question that the model invented after its answer",
        _grader(cut=lambda t: t),
    ),
    Slip(
        "stops-at-comma",
        "stops at a thousands separator: 1,080 is read as 1",
        _grader(
            numbers=lambda t: re.findall(r"[-+]?\d+(?:\.\d+)?", t.split(",")[0]),
            equal=lambda a, b: _value(a) == _value(b),
        ),
    ),
    Slip(
        "comma-splits",
        "takes 1,080 for two numbers: commas between digits are thousands separators",
        _grader(numbers=re.compile(r"[-+]?\d+(?:\.\d+)?").findall),
    ),
    Slip(
        "truth-comma",
        "does not read a thousands separator in the ground truth",
        _grader(equal=lambda a, b: a.replace(",", "") == b or ("," not in b and _value(a) == Fraction(b))),
    ),
    Slip(
        "joins-digits",
        "accepts `1 8` for 18: blanks were taken out before the number was read",
        _grader(numbers=lambda t: _NUMBER.findall(t.replace(" ", ""))),
    ),
    Slip(
        "first-of-several",
        "takes the first of several numbers; two numbers are no answer",
        _grader(choose=lambda f: f[0] if f else None),
    ),
    Slip(
        "last-of-several",
        "takes the last of several numbers; two numbers are no answer",
        _grader(choose=lambda f: f[-1] if f else None),
    ),
    Slip(
        "sign-lost",
        "loses the minus sign",
        _grader(numbers=re.compile(r"\d[\d,]*(?:\.\d+)?").findall, equal=lambda a, b: _value(a) == abs(_value(b))),
    ),
    Slip(
        "sign-of-response-lost",
        "loses the minus sign of the response",
        _grader(numbers=re.compile(r"\d[\d,]*(?:\.\d+)?").findall),
    ),
    Slip(
        "decimals-lost",
        "reads whole numbers only: 18.5 becomes 18",
        _grader(
            numbers=lambda t: [n.split(".")[0] for n in _NUMBER.findall(t)],
            equal=lambda a, b: _value(a) == int(_value(b)),
        ),
    ),
    Slip(
        "compares-text",
        "compares texts: 18.0 and 18 are equal by value",
        _grader(equal=lambda a, b: a.replace(",", "") == b.replace(",", "")),
    ),
    Slip(
        "substring",
        "asks whether the truth occurs in the answer: 18 occurs in 118",
        _grader(equal=lambda a, b: b.replace(",", "") in a.replace(",", "")),
    ),
    Slip(
        "tolerance",
        "accepts what is near: the contract asks for equality",
        _grader(equal=lambda a, b: abs(float(_value(a)) - float(_value(b))) <= 0.02),
    ),
    Slip(
        "float-equality",
        "compares floats: above 2**53 neighbours are equal; use Fraction or Decimal",
        _grader(equal=lambda a, b: float(_value(a)) == float(_value(b))),
        hint=3,
    ),
    Slip(
        "isclose",
        "compares with math.isclose: at large numbers neighbours are equal; use Fraction or Decimal",
        _grader(
            equal=lambda a, b: (
                abs(float(_value(a)) - float(_value(b))) <= 1e-9 * max(abs(float(_value(a))), abs(float(_value(b))))
            )
        ),
        hint=3,
    ),
    Slip(
        "format-needs-digit",
        "format_reward is 0 for an unreadable answer: it speaks of structure only",
        _grader(form=lambda s, n: bool(s) and re.search(r"\d", s) is not None),
    ),
    Slip(
        "format-needs-number",
        "format_reward is 0 for an unreadable answer: it speaks of structure only",
        _grader(form=lambda s, n: n is not None),
    ),
    Slip(
        "format-of-marker",
        "format_reward is 1 for a bare marker: something has to follow it",
        _grader(form=lambda s, n: s is not None),
    ),
    Slip(
        "format-is-answer",
        "format_reward is 1 only where the answer is right: it speaks of structure only",
        lambda r, t, fast=True: dict.fromkeys(KEYS, _grader()(r, t)["reward"]),
    ),
    Slip(
        "reward-without-product",
        "reward is format_reward; it is format_reward * answer_reward",
        lambda r, t, fast=True: _grader()(r, t) | {"reward": _grader()(r, t)["format_reward"]},
    ),
    Slip(
        "rest-of-text",
        "reads everything after the marker: the answer ends with its line",
        _grader(span=lambda t: t.rsplit("####", 1)[1].strip() if "####" in t else None),
    ),
    Slip(
        "bare-number",
        "accepts nothing but the bare number: a currency sign, unit or full stop may stand beside it",
        _grader(numbers=lambda t: [t] if _NUMBER.fullmatch(t) else []),
    ),
    Slip(
        "blank-demanded",
        "demands a blank after ####",
        _grader(span=lambda t: t.rsplit("#### ", 1)[1].split("\n", 1)[0].strip() if "#### " in t else None),
    ),
    Slip("crashes-on-words", "raises an exception for an unreadable answer: it gets answer_reward 0", _float_strict),
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value
    if not isinstance(value, dict) or any(key not in value for key in KEYS):
        return Misshapen(f"returns something else than a dict with {', '.join(KEYS)}")
    if any(not isinstance(value[key], (bool, int, float)) for key in KEYS):
        return Misshapen("the rewards are numbers: 0.0 or 1.0")
    return {key: float(value[key]) for key in KEYS}


def check(session: Session) -> Failure | None:
    return compare(session, "gsm8k_reward_fn", _cases(), gsm8k_reward_fn, SLIPS, view=_view)
