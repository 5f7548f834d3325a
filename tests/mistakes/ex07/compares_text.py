"""Slip: texts compared.

Expected message: compares texts: 18.0 and 18
"""

from __future__ import annotations

import re


def gsm8k_reward_fn(response, ground_truth, fast=True):
    response = re.split(r"^Question:", response, flags=re.M)[0]
    if "####" not in response:
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    answer = response.split("####")[-1].split("\n")[0].strip()
    format_reward = 1.0 if answer else 0.0
    numbers = re.findall(r"[-+]?\$?[.,]*\d[\d.,]*", answer)
    answer_reward = 0.0
    if len(numbers) == 1 and equal(numbers[0], ground_truth):
        answer_reward = 1.0
    return {"format_reward": format_reward, "answer_reward": answer_reward, "reward": format_reward * answer_reward}


def equal(a, b):
    return a.replace(",", "").replace("$", "") == b.replace(",", "").replace("$", "")
