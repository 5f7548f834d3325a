"""The grader: from a response to a reward, without running any of its text.

Read `rewards` first: the reward functions are there. `response_end` decides where the response ends, `answer_span`
where the answer is, `number` which number that is (with `normalize`, `quantity`, `context` and `vocabulary`), and
`ground_truth` what is right. `lenient` reads an answer in any form; `math_verify` compares expressions.
"""

from cs336_sft.grading.answer_span import STYLES
from cs336_sft.grading.lenient import lenient_reward_fn, read_leniently
from cs336_sft.grading.math_verify import MathVerifier
from cs336_sft.grading.response_end import cut_position
from cs336_sft.grading.rewards import (
    Reading,
    RewardFn,
    check_truths,
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
    "Reading",
    "RewardFn",
    "check_truths",
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
