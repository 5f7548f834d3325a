"""Slip: lengths in words.

Expected message: counts words between blanks
"""

from __future__ import annotations

import numpy as np

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer):
    prompts = tuple(len(template.prompt(p).split()) for p in problems)
    return LengthTable(prompts, tuple(len(p.answer.split()) for p in problems))


def length_percentiles(table):
    out = {}
    for name in ("prompt", "answer", "total"):
        out[name] = {str(p): float(np.percentile(getattr(table, name), p)) for p in (50, 90, 95, 99, 99.5)}
    return out
