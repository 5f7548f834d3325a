"""Regular expressions."""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER = re.compile(r"(?P<sign>[-+]?)\$?(?P<digits>[0-9.,]*[0-9][0-9.,]*)")
PLAIN = re.compile(r"(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)?(?:\.[0-9]+)?")


def _value(sign, digits):
    digits = digits.rstrip(".,")
    if len(digits) > 1000 or not PLAIN.fullmatch(digits):
        return None
    value = Fraction(digits.replace(",", ""))
    return -value if sign == "-" else value


def _numbers(text):
    return [_value(m["sign"], m["digits"]) for m in NUMBER.finditer(text)]


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    response = re.split(r"^Question:", response, maxsplit=1, flags=re.MULTILINE)[0]
    before, marker, after = response.rpartition("####")
    line = after.split("\n")[0].strip() if marker else ""
    if not line:
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    numbers = _numbers(line)
    right = len(numbers) == 1 and numbers[0] is not None and numbers[0] == _numbers(ground_truth)[0]
    return {"format_reward": 1.0, "answer_reward": float(right), "reward": float(right)}
