"""The reward functions: a response and its ground truth in, three rewards out.

``format_reward`` is 1.0 if the response has the structure of its style, ``answer_reward`` if the number in it equals
the ground truth exactly, ``reward`` is their product. A ground truth that can't be read raises DataError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from cs336_sft.errors import ConfigError
from cs336_sft.grading.answer_span import STYLES, find_span
from cs336_sft.grading.ground_truth import GroundTruth, read_truth, split_truth
from cs336_sft.grading.math_verify import MathVerifier
from cs336_sft.grading.number import read_number
from cs336_sft.grading.response_end import cut_position
from cs336_sft.prompts import Style

RewardFn = Callable[[str, Any], Mapping[str, float]]

_MISSING = {
    "gsm8k": "no #### with an answer on its line",
    "r1_zero": "no complete <answer>…</answer> after </think>",
    "question_only": "no complete \\boxed{…}",
}
_GLUED = "a sign or digit stands outside the box"


class Reading(NamedTuple):
    """The answer that was found in a response."""

    style: Style  # the style asked for
    format: bool  # the response has the structure of the style
    text: str  # the span that was read, `response[start:end]`; empty without structure
    start: int  # -1 without structure
    end: int
    value: Fraction | int | None  # its number, exactly, or None
    reason: str  # why there is a value or none
    cut: int  # length of the part that was graded; another problem, turn or special token ends it


def read_answer(response: str, style: Style = "gsm8k", *, strict: bool = True, first: bool = False) -> Reading:
    """Find and read the answer of a response (arguments as in `grade_response`).

    >>> reading = read_answer("9 * 2 = 18\\n#### $18 a day", "gsm8k")
    >>> reading.value, reading.text, reading.reason
    (18, ' $18 a day', 'one number')
    """
    text = response[: cut_position(response)]
    span = find_span(text, style, first)
    has_format = span is not None
    if strict and style == "r1_zero":
        has_format = "</think> <answer>" in text and "</answer>" in text
    if span is None or not has_format:
        return Reading(style, has_format, "", -1, -1, None, _MISSING[style], len(text))
    inner = text[span.start : span.end]
    value, reason = (None, _GLUED) if span.glued else read_number(inner)
    return Reading(style, True, inner, span.start, span.end, value, reason, len(text))


def detect_style(response: str) -> Style | None:
    """Return the style that a response is written in, or None.

    That is the first style with a readable number, else the first complete one. Tags come first, then ``####``, then
    boxes, since a box may also be part of the other two.
    """
    readings = [read_answer(response, style, strict=False) for style in ("r1_zero", "gsm8k", "question_only")]
    readable = [reading.style for reading in readings if reading.value is not None]
    complete = [reading.style for reading in readings if reading.format]
    return next(iter(readable + complete), None)


def grade_response(
    response: str,
    ground_truth: GroundTruth,
    style: Style = "gsm8k",
    *,
    strict: bool = True,
    first: bool = False,
    math: MathVerifier | None = None,
) -> dict[str, float]:
    """Grade a response in a style (each reward function below has one).

    ``strict`` (r1_zero): the format is the assignment's literal ``</think> <answer>`` and ``</answer>``; otherwise any
    complete ``<answer>…</answer>`` after ``</think>``. ``first`` (gsm8k): read the first ``####``, as GSM8K's own
    script does, not the last. ``math`` compares truths that are no single number (expressions, intervals, matrices).
    Raises DataError: no number in the ground truth, and no ``math``. Raises ConfigError: no such style.

    >>> grade_response("9 * 2 = \\\\boxed{18}", "18", "question_only")
    {'format_reward': 1.0, 'answer_reward': 1.0, 'reward': 1.0}
    """
    values, expressions = (read_truth(ground_truth), []) if math is None else split_truth(ground_truth)
    reading = read_answer(response, style, strict=strict, first=first)
    right = reading.value is not None and reading.value in values
    if math is not None and not right and reading.text and reading.reason != _GLUED:
        right = any(math.compare(reading.text.strip(), expression).equal for expression in expressions)
    return {"format_reward": float(reading.format), "answer_reward": float(right), "reward": float(right)}


def gsm8k_reward_fn(response: str, ground_truth: GroundTruth, fast: bool = True) -> dict[str, float]:
    """Grade the number after the last ``####``.

    ``fast`` has no effect, here and below; the handout's signature has it.

    >>> gsm8k_reward_fn("9 * 2 = 18\\n#### $18.00", "18")
    {'format_reward': 1.0, 'answer_reward': 1.0, 'reward': 1.0}
    """
    return grade_response(response, ground_truth, "gsm8k")


def r1_zero_reward_fn(
    response: str, ground_truth: GroundTruth, fast: bool = True, *, strict: bool = True
) -> dict[str, float]:
    """Grade the number in the last complete ``<answer>…</answer>`` after ``</think>``.

    By default the format is the assignment's literal ``</think> <answer>``; see `grade_response`.

    >>> r1_zero_reward_fn("9 * 2 </think> <answer> 18 apples </answer>", 18)["reward"]
    1.0
    """
    return grade_response(response, ground_truth, "r1_zero", strict=strict)


def question_only_reward_fn(
    response: str, ground_truth: GroundTruth, fast: bool = True, *, math: MathVerifier | None = None
) -> dict[str, float]:
    """Grade the number in the last complete ``\\boxed{…}`` (see `grade_response`).

    >>> question_only_reward_fn("It is $\\\\boxed{\\\\frac{3}{4}}$.", 0.75)["reward"]
    1.0
    """
    return grade_response(response, ground_truth, "question_only", math=math)


_REWARD_FNS = {"gsm8k": gsm8k_reward_fn, "r1_zero": r1_zero_reward_fn, "question_only": question_only_reward_fn}


def get_reward_fn(style: str) -> RewardFn:
    """Return the reward function of a style, such as ``template.style``.

    >>> get_reward_fn("gsm8k").__name__
    'gsm8k_reward_fn'
    """
    if style not in _REWARD_FNS:
        raise ConfigError(f"no grading style is called {style!r}", f"choose one of {', '.join(STYLES)}")
    return _REWARD_FNS[style]
