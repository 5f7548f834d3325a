"""Slip: lengths sorted for the percentiles.

Expected message: sorts the lengths
"""

from __future__ import annotations

import numpy as np

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer):
    prompts = [tokenizer.encode(template.prompt(p), add_special_tokens=False) for p in problems]
    answers = [tokenizer.encode(p.answer, add_special_tokens=False) for p in problems]
    return LengthTable(tuple(sorted(map(len, prompts))), tuple(sorted(map(len, answers))))


def length_percentiles(table):
    out = {}
    for name in ("prompt", "answer", "total"):
        out[name] = {str(p): float(np.percentile(getattr(table, name), p)) for p in (50, 90, 95, 99, 99.5)}
    return out
