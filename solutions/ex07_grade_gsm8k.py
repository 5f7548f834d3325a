"""ex07, solved plainly. The task and its contract are in exercises/ex07_grade_gsm8k.py."""

from __future__ import annotations

import re
from decimal import Decimal

NEXT_QUESTION = re.compile(r"^Question:", re.MULTILINE)
LIKE_A_NUMBER = re.compile(r"[-+]?\$?[.,]*\d[\d.,]*")  # `1,08` too
NUMBER = re.compile(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d*)(\.\d+)?[.,]*")


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    """Rewards for structure and answer."""
    text = NEXT_QUESTION.split(response)[0]
    before, marker, after = text.rpartition("####")
    line = after.split("\n")[0].strip() if marker else ""
    numbers = LIKE_A_NUMBER.findall(line)
    readable = len(numbers) == 1 and NUMBER.fullmatch(numbers[0])
    right = readable and value(numbers[0]) == value(ground_truth)
    format_reward, answer_reward = float(bool(line)), float(bool(right))
    return {"format_reward": format_reward, "answer_reward": answer_reward, "reward": format_reward * answer_reward}


def value(number: str) -> Decimal:
    """Exactly what the text says."""
    return Decimal(number.replace(",", "").replace("$", "").rstrip("."))
