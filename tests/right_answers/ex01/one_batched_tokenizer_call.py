"""One batched tokenizer call, guarded for no problems; np.quantile."""

from __future__ import annotations

import numpy as np

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer) -> LengthTable:
    if len(problems) == 0:
        return LengthTable((), ())

    def count(texts):
        batch = tokenizer(list(texts), add_special_tokens=False, padding=False, truncation=False)
        return tuple(len(ids) for ids in batch["input_ids"])

    return LengthTable(prompt=count(template.prompt(p) for p in problems), answer=count(p.answer for p in problems))


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    both = np.array([table.prompt, table.answer], dtype=np.int64)
    rows = np.vstack([both, both.sum(axis=0, keepdims=True)])
    values = np.quantile(rows, [0.5, 0.9, 0.95, 0.99, 0.995], axis=1)
    names = ["50", "90", "95", "99", "99.5"]
    return {
        what: dict(zip(names, map(float, values[:, i]), strict=True))
        for i, what in enumerate(["prompt", "answer", "total"])
    }
