"""Decimal.Decimal instead of Fraction, one anchored pattern for the whole line."""

from __future__ import annotations

import re
from decimal import Decimal

LINE = re.compile(
    r"[^0-9]*?([-+]?)\$?((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?![0-9]|[.,][0-9])[^0-9]*"
)
BAD = re.compile(r"[0-9.,]*[0-9][0-9.,]*")


def _decimal(text):
    found = LINE.fullmatch(text)
    if found is None or BAD.search(text)[0].rstrip(".,") != found[2]:
        return None
    return Decimal(found[1] + found[2].replace(",", ""))


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    head = ("\n" + response).split("\nQuestion:")[0]
    if "####" not in head:
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    line = head.split("####")[-1].partition("\n")[0]
    if not line.strip():
        return {"format_reward": 0.0, "answer_reward": 0.0, "reward": 0.0}
    mine, truth = _decimal(line.strip()), _decimal(ground_truth.strip())
    answer = 1.0 if mine is not None and mine == truth else 0.0
    return {"format_reward": 1.0, "answer_reward": answer, "reward": answer}
