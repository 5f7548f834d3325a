"""The grader: from a response to a reward, without running any of its text. Read `rewards` first.

`response_end` and `answer_span` find the answer, `number` reads it, `ground_truth` says what is right.
"""

from cs336_sft.grading.answer_span import STYLES
from cs336_sft.grading.lenient import lenient_reward_fn, read_leniently
from cs336_sft.grading.math_verify import MathVerifier
from cs336_sft.grading.response_end import cut_position
from cs336_sft.grading.rewards import (
    RewardFn,
    detect_style,
    get_reward_fn,
    grade_response,
    gsm8k_reward_fn,
    question_only_reward_fn,
    r1_zero_reward_fn,
    read_answer,
)

__all__ = [
    "STYLES",
    "MathVerifier",
    "RewardFn",
    "cut_position",
    "detect_style",
    "get_reward_fn",
    "grade_response",
    "gsm8k_reward_fn",
    "lenient_reward_fn",
    "question_only_reward_fn",
    "r1_zero_reward_fn",
    "read_answer",
    "read_leniently",
]
