"""Hand parser, character by character."""

from __future__ import annotations

from fractions import Fraction

DIGITS = "0123456789"


def _read(chars):
    """Signed value of one run of digits, points and commas, or None."""
    sign, run = chars
    while run and run[-1] in ".,":
        run = run[:-1]
    whole, point, part = run.partition(".")
    if point and not part or any(c not in DIGITS for c in part):
        return None
    groups = whole.split(",")
    if len(groups) > 1 and not (1 <= len(groups[0]) <= 3 and all(len(g) == 3 for g in groups[1:])):
        return None
    digits = "".join(groups)
    value = 0
    for c in digits + part:
        value = value * 10 + DIGITS.index(c)
    return (-1 if sign else 1) * Fraction(value, 10 ** len(part))


def _runs(text):
    runs, i = [], 0
    while i < len(text):
        if text[i] in DIGITS or (text[i] in ".," and i + 1 < len(text) and text[i + 1] in DIGITS):
            j = i
            while j < len(text) and text[j] in DIGITS + ".,":
                j += 1
            k = i - 1
            if k >= 0 and text[k] == "$":
                k -= 1
            runs.append((k >= 0 and text[k] == "-", text[i:j]))
            i = j
        else:
            i += 1
    return runs


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    kept = []
    for line in response.split("\n"):
        if line.startswith("Question:"):
            break
        kept.append(line)
    tail = None
    for line in kept:
        if "####" in line:
            tail = line[line.rindex("####") + 4 :]
    rewards = dict.fromkeys(("format_reward", "answer_reward", "reward"), 0.0)
    if tail is None or tail.isspace() or tail == "":
        return rewards
    rewards["format_reward"] = 1.0
    runs = _runs(tail)
    if len(runs) == 1:
        value = _read(runs[0])
        if value is not None and value == _read(_runs(ground_truth)[0]):
            rewards["answer_reward"] = 1.0
    rewards["reward"] = rewards["format_reward"] * rewards["answer_reward"]
    return rewards
