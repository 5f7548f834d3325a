"""The grader: where a response's answer stands, what number it is, and whether it is right.

``cut`` (where the response ends) -> ``structure`` (the span) -> ``clean`` and ``number`` (its one number) ->
``rewards`` (equality with the ``truth``). Standard library only; ``math_mode`` is the door to math-verify.
"""

from cs336_sft.grading.answer_span import STYLES, Style, find_span
from cs336_sft.grading.ground_truth import GroundTruth, read_truth
from cs336_sft.grading.lenient import lenient_reward_fn, read_leniently
from cs336_sft.grading.math_verify import MathVerdict, MathVerifier
from cs336_sft.grading.number import NumberReading, read_number
from cs336_sft.grading.response_end import READ_LIMIT, cut_position
from cs336_sft.grading.rewards import (
    Reading,
    detect_style,
    get_reward_fn,
    grade,
    gsm8k_reward_fn,
    question_only_reward_fn,
    r1_zero_reward_fn,
    read_answer,
)

__all__ = [
    "READ_LIMIT",
    "STYLES",
    "GroundTruth",
    "MathVerdict",
    "MathVerifier",
    "NumberReading",
    "Reading",
    "Style",
    "cut_position",
    "detect_style",
    "find_span",
    "get_reward_fn",
    "grade",
    "gsm8k_reward_fn",
    "lenient_reward_fn",
    "question_only_reward_fn",
    "r1_zero_reward_fn",
    "read_answer",
    "read_leniently",
    "read_number",
    "read_truth",
]
