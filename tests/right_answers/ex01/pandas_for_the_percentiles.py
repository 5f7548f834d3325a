"""Pandas for the percentiles, a helper that caches within one call."""

from __future__ import annotations

import pandas as pd

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer) -> LengthTable:
    seen = {}

    def count(text):
        if text not in seen:
            seen[text] = len(tokenizer(text, add_special_tokens=False).input_ids)
        return seen[text]

    pairs = [(count(template.prompt(p)), count(p.answer)) for p in problems]
    return LengthTable(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    frame = pd.DataFrame({"prompt": table.prompt, "answer": table.answer})
    frame["total"] = frame["prompt"] + frame["answer"]
    qs = {"50": 0.5, "90": 0.9, "95": 0.95, "99": 0.99, "99.5": 0.995}
    return {c: {k: float(frame[c].quantile(q)) for k, q in qs.items()} for c in frame.columns}
