"""A plain loop over tokenizer.encode, np.percentile."""

from __future__ import annotations

import numpy as np

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer) -> LengthTable:
    prompts, answers = [], []
    for problem in problems:
        prompts.append(len(tokenizer.encode(template.prompt(problem), add_special_tokens=False)))
        answers.append(len(tokenizer.encode(problem.answer, add_special_tokens=False)))
    return LengthTable(tuple(prompts), tuple(answers))


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    prompt, answer = np.array(table.prompt), np.array(table.answer)
    columns = {"prompt": prompt, "answer": answer, "total": prompt + answer}
    return {
        name: {key: float(np.percentile(values, float(key))) for key in ("50", "90", "95", "99", "99.5")}
        for name, values in columns.items()
    }
