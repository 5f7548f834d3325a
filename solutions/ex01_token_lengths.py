"""ex01, solved plainly. The task and its contract are in exercises/ex01_token_lengths.py."""

from __future__ import annotations

import numpy as np

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer) -> LengthTable:
    """Token counts of prompts and answers."""

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return LengthTable(
        prompt=tuple(count(template.prompt(problem)) for problem in problems),
        answer=tuple(count(problem.answer) for problem in problems),
    )


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    """Percentiles 50, 90, 95, 99 and 99.5 of prompt, answer and total."""
    parts = {"prompt": table.prompt, "answer": table.answer, "total": table.total}
    return {
        name: {f"{p:g}": float(np.percentile(lengths, p)) for p in (50, 90, 95, 99, 99.5)}
        for name, lengths in parts.items()
    }
