"""ex07: grade the number after the last ``####``."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from cs336_sft.exercises.compare import Check, entries, slips
from cs336_sft.exercises.sandbox.perform import Case, Observation

# (response, ground truth, why)
_RESPONSES = (
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
    ("#### -$5", "-5", "a currency sign may stand between the sign and the digits"),
    ("#### -$5", "5", "-$5 is not 5"),
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
    ("#### .5", "0.5", "a decimal without the zero in front"),
    ("#### .5", "5", ".5 is not 5"),
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


CASES = [
    Case((response, truth), label=f"response {response!r}, ground truth {truth!r}", why=why)
    for response, truth, why in _RESPONSES
]
_DIGITS = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(rf"[-+]?\$?{_DIGITS}")
_UNGROUPED = re.compile(r"[-+]?\$?(?:\d+(?:\.\d+)?|\.\d+)")


def _value(text: str) -> Fraction:
    return Fraction(re.sub("[,$]", "", text))


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
    """Make the contract's grader, or, with one part replaced, one with a slip."""

    def grade(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
        found = span(cut(response))
        number = choose(numbers(found)) if found else None
        formatted = float(form(found, number))
        right = float(number is not None and equal(number, ground_truth))
        return {"format_reward": formatted, "answer_reward": right, "reward": formatted * right}

    return grade


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
        "crashes-on-words": _grader(choose=lambda f: None if len(f) > 1 else f[0]),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    return entries(seen.value, ("format_reward", "answer_reward", "reward"), (bool, int, float))


CHECKS = (Check("gsm8k_reward_fn", CASES, _grader(), SLIPS, _view),)
