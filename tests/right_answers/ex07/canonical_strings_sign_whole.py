"""Canonical strings: sign, whole part without leading zeros, decimals without trailing zeros."""

from __future__ import annotations

import re


def _canonical(text):
    runs = re.findall(r"([-+]?)[$]?([0-9.,]*[0-9][0-9.,]*)", text)
    if len(runs) != 1:
        return None
    sign, run = runs[0][0], runs[0][1].rstrip(",.")
    whole, _, part = run.partition(".")
    if re.search(r"[^0-9]", part) or (_ and not part):
        return None
    if "," in whole and not re.match(r"^[0-9]{1,3}(,[0-9]{3})+$", whole):
        return None
    whole, part = whole.replace(",", "").lstrip("0"), part.rstrip("0")
    negative = sign == "-" and bool(whole or part)
    return negative, whole, part


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    lines = response.split("\n")
    stop = next((i for i, line in enumerate(lines) if line[:9] == "Question:"), len(lines))
    marked = [line for line in lines[:stop] if "####" in line]
    content = marked[-1].split("####")[-1].strip() if marked else ""
    form = float(content != "")
    mine = _canonical(content) if content else None
    answer = float(mine is not None and mine == _canonical(ground_truth))
    return {"format_reward": form, "answer_reward": answer, "reward": form * answer}
