"""Slip: nothing but the number.

Expected message: accepts nothing but the bare number
"""

from __future__ import annotations

import re
from decimal import Decimal


def gsm8k_reward_fn(response, ground_truth, fast=True):
    response = re.split(r"^Question:", response, flags=re.M)[0]
    if "####" not in response:
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    answer = response.split("####")[-1].split("\n")[0].strip()
    format_reward = 1.0 if answer else 0.0
    numbers = re.findall(r"[-+]?(?:[\d,]*\d(?:\.\d+)?|\.\d+)", answer)
    answer_reward = 0.0
    if [answer] == numbers and equal(answer, ground_truth):
        answer_reward = 1.0
    return {"format_reward": format_reward, "answer_reward": answer_reward, "reward": format_reward * answer_reward}


def equal(a, b):
    if not re.fullmatch(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d*)(\.\d+)?[.,]*", a):
        return False
    return Decimal(a.replace(",", "").replace("$", "").rstrip(".")) == Decimal(b.replace(",", "").replace("$", ""))
