"""Slip: the number has to stand first on the line.

Expected message: words may stand before the number
"""

from __future__ import annotations

import re
from decimal import Decimal

TOKEN = re.compile(r"[-+]?\$?[-+]?(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)")


def good(token):
    whole = token.lstrip("+-$").partition(".")[0]
    return "," not in whole or bool(re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", whole))


def gsm8k_reward_fn(response, ground_truth, fast=True):
    text = re.split(r"(?m)^Question:", response, maxsplit=1)[0]
    line = (re.findall(r"####([^\n]*)", text) or [""])[-1]
    format_reward = 1.0 if line.strip() else 0.0
    tokens = TOKEN.findall(line) if TOKEN.match(line.strip()) else []
    answer_reward = 0.0
    if format_reward and len(tokens) == 1 and good(tokens[0]):
        text = tokens[0].replace(",", "").replace("$", "")
        value, truth = Decimal(text), Decimal(ground_truth.replace(",", ""))
        answer_reward = float(value == truth)
    return {"format_reward": format_reward, "answer_reward": answer_reward, "reward": format_reward * answer_reward}
