"""ex07. Grade an answer that ends in `#### N`.

Topic: grading. Difficulty 4 of 5, about 45 minutes. Taught in notebook 03_grader.
Check it with `cs336-sft check ex07`; stuck? `cs336-sft hint ex07`.

gsm8k_reward_fn(response, ground_truth, fast=True) -> dict
    response       the model's text, any string
    ground_truth   a number as text, maybe with thousands separators: "18", "1,080", "-5", "0.5"
    fast           in the signature for compatibility; do nothing with it
    returns        {"format_reward": ..., "answer_reward": ..., "reward": ...}, each 0.0 or 1.0

The contract, smaller than the library's:
- A base model goes on and invents the next question. A line that begins with `Question:` ends the response.
- The answer is what follows the *last* `####` on its line (a blank after the marker is usual, not demanded).
- format_reward speaks of structure only: 1 whenever something other than blanks follows the marker, readable or not.
- answer_reward is 1 if that line holds exactly one number and it equals the ground truth by value: 18.0 is 18.
  Exactly: no tolerance, and 9007199254740993 is not 9007199254740992.
- A number may have thousands separators, a sign, decimals (`.5` is 0.5); a dollar sign before its digits (`-$5` is -5),
  a unit or a full stop after it. `1 8` is two numbers. No fractions, no LaTeX, no numbers in words;
  `1,08` makes a line unreadable.
- reward = format_reward * answer_reward. No response raises an exception, not even 5,000 digits.

By hand, (format, answer, reward):
    "#### 1,080."  against "1080"  1 1 1        "#### none"  against "5"  1 0 0
    "#### 1 8"     against "18"    1 0 0        "It is 5."   against "5"  0 0 0
"""

from __future__ import annotations

import re  # noqa: F401 - for you
from decimal import Decimal  # noqa: F401 - exact, reads "-1080.50" and numbers of any length


def gsm8k_reward_fn(response: str, ground_truth: str, fast: bool = True) -> dict[str, float]:
    """Rewards for structure and answer."""
    raise NotImplementedError
