"""ex07, solved plainly. The task and its contract are in exercises/ex07_grade_gsm8k.py."""

from __future__ import annotations

import re
from fractions import Fraction

NEXT_QUESTION = re.compile(r"^\s*Question:", re.MULTILINE)
NUMBER = re.compile(r"[-+]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    """Rewards for structure and answer."""
    text = NEXT_QUESTION.split(response)[0]
    before, marker, after = text.rpartition("####")
    line = after.split("\n")[0].strip() if marker else ""
    numbers = NUMBER.findall(line)
    right = len(numbers) == 1 and value(numbers[0]) == value(ground_truth)
    format_reward, answer_reward = float(bool(line)), float(right)
    return {"format_reward": format_reward, "answer_reward": answer_reward, "reward": format_reward * answer_reward}


def value(number: str) -> Fraction:
    """Exactly what the text says."""
    return Fraction(number.replace(",", "").replace("$", ""))
