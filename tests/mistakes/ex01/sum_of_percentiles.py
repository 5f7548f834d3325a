"""Slip: percentiles of prompt and answer added up.

Expected message: the percentile of a sum is not the sum of percentiles
"""

from __future__ import annotations

import numpy as np

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer):
    prompts = [tokenizer.encode(template.prompt(p), add_special_tokens=False) for p in problems]
    answers = [tokenizer.encode(p.answer, add_special_tokens=False) for p in problems]
    return LengthTable(tuple(len(x) for x in prompts), tuple(len(x) for x in answers))


def length_percentiles(table):
    points = (50, 90, 95, 99, 99.5)
    out = {
        name: {str(p): float(np.percentile(getattr(table, name), p)) for p in points} for name in ("prompt", "answer")
    }
    out["total"] = {key: out["prompt"][key] + out["answer"][key] for key in out["prompt"]}
    return out
