"""The reward functions: a response and its ground truth in, three verdicts out.

``format_reward`` is 1.0 if the style's structure is there and complete, ``answer_reward`` if the number in it equals
the ground truth exactly, ``reward`` is their product. They are pure functions of their arguments: no clock, no
process, no thread, no state, so they can run anywhere and always say the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from cs336_sft.errors import ConfigError
from cs336_sft.grading.answer_span import STYLES, Style, find_span, plain_hash_value
from cs336_sft.grading.ground_truth import GroundTruth, read_truth
from cs336_sft.grading.math_verify import MathVerifier
from cs336_sft.grading.number import plain_value, read_number
from cs336_sft.grading.response_end import cut_position, limited, may_need_cut

RewardFn = Callable[..., dict[str, float]]
_LITERAL = "</think> <answer>"


@dataclass(frozen=True)
class Reading:
    """What a parser read in a response, from where and why.

    Attributes:
        style: the style asked for.
        format: the structure is there and complete.
        text: the span that was read, ``response[start:end]``; empty without structure.
        start, end: where the span stands in the response; -1 without structure.
        value: its number, exactly, or None.
        reason: why there is a value or none, for people.
        cut: how much of the response was graded; less than its length if another problem, turn or token follows.
    """

    style: Style
    format: bool
    text: str
    start: int
    end: int
    value: Fraction | int | None
    reason: str
    cut: int


def read_answer(response: str, style: Style = "gsm8k", *, strict: bool = False) -> Reading:
    """Finds and reads the answer of ``response`` in a style.

    Args:
        response: any string.
        style: ``"gsm8k"``, ``"r1_zero"`` or ``"question_only"``.
        strict: for ``r1_zero``: demand the assignment's literal ``</think> <answer>`` too.

    Raises:
        ConfigError: no such style.

    >>> reading = read_answer("9 * 2 = 18\\n#### $18 a day", "gsm8k")
    >>> reading.value, reading.text, reading.reason
    (18, ' $18 a day', 'one number')
    >>> read_answer("So it is 18.", "question_only").reason
    'no complete \\\\boxed{…}'
    """
    if style not in STYLES:
        raise _unknown_style(style)
    cut = cut_position(response)
    text = response[:cut]
    span = find_span(text, style)
    if strict and style == "r1_zero" and _LITERAL not in text:
        span = None
    if span is None:
        return Reading(style, False, "", -1, -1, None, _MISSING[style], cut)
    inner = text[span.start : span.end]
    if span.glued:
        return Reading(style, True, inner, span.start, span.end, None, "a sign or digit stands outside the box", cut)
    number = read_number(inner)
    return Reading(style, True, inner, span.start, span.end, number.value, number.reason, cut)


_MISSING = {
    "gsm8k": "no #### with an answer on its line",
    "r1_zero": "no complete <answer>…</answer> after </think>",
    "question_only": "no complete \\boxed{…}",
}


def detect_style(response: str) -> Style | None:
    """The style whose structure the response has: the first with a readable number, else the first complete one.

    Tags are asked for first, then ``####``, then boxes, since a box is at home inside the other two.

    >>> detect_style("9 * 2 = \\\\boxed{18}\\n#### 18")
    'gsm8k'
    >>> detect_style("It is 18.") is None
    True
    """
    readings = [read_answer(response, style) for style in ("r1_zero", "gsm8k", "question_only")]
    for reading in readings:
        if reading.value is not None:
            return reading.style
    for reading in readings:
        if reading.format:
            return reading.style
    return None


def grade(
    response: str,
    ground_truth: GroundTruth,
    style: Style = "gsm8k",
    *,
    strict: bool = False,
    math: MathVerifier | None = None,
) -> dict[str, float]:
    """The verdicts on a response, in a style given by name; the reward functions below are this with a fixed style.

    Args:
        response: any string.
        ground_truth: see ``read_truth``.
        style: ``"gsm8k"``, ``"r1_zero"`` or ``"question_only"``.
        strict: for ``r1_zero``: demand the assignment's literal ``</think> <answer>`` too.
        math: judges truths that are no single number (expressions, intervals, matrices); None refuses those.

    Raises:
        ValueError: no number in the ground truth, and no ``math`` to judge it.
        ConfigError: no such style.

    >>> grade("9 * 2 = \\\\boxed{18}", "18", "question_only")
    {'format_reward': 1.0, 'answer_reward': 1.0, 'reward': 1.0}
    """
    if style not in STYLES:
        raise _unknown_style(style)
    if math is not None:
        return _grade_expression(response, ground_truth, style, strict, math)
    truths = read_truth(ground_truth)
    text = limited(response)
    if may_need_cut(text):
        text = text[: cut_position(text)]
    if style == "gsm8k":
        plain = plain_hash_value(text)
        if plain is not None:
            return _verdict(plain in truths)
    span = find_span(text, style)
    if span is None or (strict and style == "r1_zero" and _LITERAL not in text):
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    if span.glued:
        return _verdict(False)
    inner = text[span.start : span.end]
    value = plain_value(inner)
    if value is None:
        value = read_number(inner).value
    return _verdict(value is not None and value in truths)


def _grade_expression(
    response: str, ground_truth: GroundTruth, style: Style, strict: bool, math: MathVerifier
) -> dict[str, float]:
    """Numbers are graded as ever; what is none is compared by ``math``."""
    reading = read_answer(response, style, strict=strict)
    if not reading.format:
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    for truth in ground_truth if isinstance(ground_truth, (list, tuple)) else [ground_truth]:
        try:
            right = reading.value in read_truth(truth)
        except ValueError:
            if not isinstance(truth, str):
                raise
            right = math.compare(reading.text.strip(), _unboxed(truth)).equal
        if right:
            return _verdict(True)
    return _verdict(False)


def _unboxed(truth: str) -> str:
    span = find_span(truth, "question_only")
    return truth[span.start : span.end] if span else truth.strip()


def _unknown_style(style: str) -> ConfigError:
    return ConfigError(f"no grading style is called {style!r}", f"choose one of {', '.join(STYLES)}")


def _verdict(right: bool) -> dict[str, float]:
    if right:
        return {"format_reward": 1.0, "answer_reward": 1.0, "reward": 1.0}
    return {"format_reward": 1.0, "answer_reward": 0.0, "reward": 0.0}


def gsm8k_reward_fn(response: str, ground_truth: GroundTruth, fast: bool = True) -> dict[str, float]:
    """Grades the number after the last ``####``.

    Args:
        response: any string.
        ground_truth: see ``read_truth``.
        fast: accepted as in the CS336 handout and without effect: there is one way to grade, and it is fast.

    Raises:
        ValueError: no number in the ground truth.

    >>> gsm8k_reward_fn("9 * 2 = 18\\n#### $18.00", "18")
    {'format_reward': 1.0, 'answer_reward': 1.0, 'reward': 1.0}
    """
    return grade(response, ground_truth, "gsm8k")


def r1_zero_reward_fn(
    response: str, ground_truth: GroundTruth, fast: bool = True, *, strict: bool = False
) -> dict[str, float]:
    """Grades the number in the last complete ``<answer>…</answer>`` after ``</think>``.

    ``strict`` also demands the assignment's literal ``</think> <answer>``; the rest is as in ``gsm8k_reward_fn``.

    >>> r1_zero_reward_fn("9 * 2 </think>\\n<answer> 18 apples </answer>", 18)["reward"]
    1.0
    >>> r1_zero_reward_fn("9 * 2 </think>\\n<answer> 18 apples </answer>", 18, strict=True)["format_reward"]
    0.0
    """
    return grade(response, ground_truth, "r1_zero", strict=strict)


def question_only_reward_fn(
    response: str, ground_truth: GroundTruth, fast: bool = True, *, math: MathVerifier | None = None
) -> dict[str, float]:
    """Grades the number in the last complete ``\\boxed{…}``; the rest is as in ``gsm8k_reward_fn``.

    ``math`` opens the MATH mode: a truth that is an expression is compared by math-verify in its own process.

    >>> question_only_reward_fn("It is $\\\\boxed{\\\\frac{3}{4}}$.", 0.75)["reward"]
    1.0
    """
    return grade(response, ground_truth, "question_only", math=math)


_REWARD_FNS: dict[str, RewardFn] = {
    "gsm8k": gsm8k_reward_fn,
    "r1_zero": r1_zero_reward_fn,
    "question_only": question_only_reward_fn,
}


def get_reward_fn(style_name: str) -> RewardFn:
    """The reward function of a style (also of the prompt template of that name).

    Raises:
        ConfigError: no such style.

    >>> get_reward_fn("gsm8k").__name__
    'gsm8k_reward_fn'
    """
    if style_name not in _REWARD_FNS:
        raise _unknown_style(style_name)
    return _REWARD_FNS[style_name]
