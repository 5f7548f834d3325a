"""The annotation checker: exact, and unmoved by anything a model can write."""

from __future__ import annotations

import json
import random
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.data.calculator_annotations import MAX_EXPRESSION, check_annotations, evaluate_expression


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", Fraction(24)),
        ("10-3-2", Fraction(5)),
        ("24/4/2", Fraction(3)),
        ("2+3*4", Fraction(14)),
        ("(2+3)*4", Fraction(20)),
        ("-(2-5)*.5", Fraction(3, 2)),
        ("0.1+0.2", Fraction(3, 10)),
        ("1.", Fraction(1)),
        (" 7 * 8 ", Fraction(56)),
        ("2**3", None),
        ("2//1", None),
        ("1/0", None),
        ("1/(2-2)", None),
        ("1 2", None),
        ("(1", None),
        ("1)", None),
        ("", None),
        (".", None),
        ("x+1", None),
        ("1e9", None),
        ("1_000", None),
        ("\u0661+1", None),
        ("9" * 19, None),
        ("(" * 30 + "1" + ")" * 30, None),
        ("1" + "+1" * MAX_EXPRESSION, None),
    ],
)
def test_evaluate_expression(expression, value):
    assert evaluate_expression(expression) == value


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("48/2=24", "right"),
        ("18*8=144.00", "right"),
        ("10/3=3.33", "right"),
        ("10/3=3.34", "wrong"),
        ("10/3=3", "wrong"),
        ("1/8=0.12", "right"),
        ("1/8=0.13", "right"),
        ("3-5=-2", "right"),
        ("48/2=25", "wrong"),
        ("48/2=12+12", "unreadable"),
        ("48/2", "unreadable"),
        ("48/2=", "unreadable"),
        ("=24", "unreadable"),
        ("48/2=24=24", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_status(text, status):
    assert [check.status for check in check_annotations(f"a <<{text}>> b")] == [status]


def test_several_and_broken_annotations():
    checks = check_annotations("<<1+1=2>>2 <<1+1=3>>3 <<5*3 and <<2*2=4>>4 <<6/2=")
    assert [check.status for check in checks] == ["right", "wrong", "unreadable", "right", "unreadable"]
    assert check_annotations("no annotation > < >> here") == []


def _random_expression(rng: random.Random, depth: int) -> tuple[str, Fraction | None]:
    """An expression and its value by an independent route: built together, fully parenthesised at random."""
    if depth == 0 or rng.random() < 0.2:
        number = rng.randrange(100)
        return str(number), Fraction(number)
    (left, a), (right, b) = _random_expression(rng, depth - 1), _random_expression(rng, depth - 1)
    operator = rng.choice("+-*/")
    if a is None or b is None or (operator == "/" and b == 0):
        value = None
    else:
        value = {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "/" else a / b
    return f"({left}{operator}{right})", value


@pytest.mark.parametrize("seed", range(300))
def test_values_agree_with_construction(seed):
    text, value = _random_expression(random.Random(seed), 4)
    assert evaluate_expression(text) == value


@settings(max_examples=500)
@given(st.text(alphabet=st.sampled_from("<>=+-*/().0123456789 x\n$%,\ud800\u0661"), max_size=400))
def test_no_string_raises(text):
    for check in check_annotations(text):
        assert check.status in ("right", "wrong", "unreadable")
        assert len(check.text) <= MAX_EXPRESSION


@pytest.mark.parametrize(
    "text",
    [
        "<<" * 200_000,
        "<<(" * 100_000,
        "<<" + "(" * 100_000 + "=1>>",
        "<<" + "9" * 100_000 + "=1>>",
        "<<" + "-" * 190 + "1=1>>",
        ("<<" + "*".join(["9" * 18] * 10) + "=1>>") * 400,
        ("<<" + "/".join(["7" * 18] * 10) + "=.1>>") * 400,
    ],
    ids=["open", "parentheses", "deep", "digits", "signs", "products", "quotients"],
)
def test_hostile_text_is_quick(text):
    start = time.perf_counter()
    check_annotations(text)
    assert time.perf_counter() - start < 3


def test_gsm8k_annotations_are_right(gsm8k):
    """Nearly all of GSM8K's own annotations are right; its two floor divisions are outside the grammar."""
    statuses = [
        check.status
        for line in (gsm8k / "train.jsonl").read_text(encoding="utf-8").splitlines()
        for check in check_annotations(json.loads(line)["answer"])
    ]
    assert len(statuses) > 20_000
    assert statuses.count("wrong") == 0
    assert statuses.count("unreadable") == 2
