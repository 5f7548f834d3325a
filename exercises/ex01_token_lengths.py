"""ex01. Count tokens: how long are prompts and answers, and which limits follow?

Topic: data. Difficulty 1 of 5, about 15 minutes. Taught in notebook 01_token_lengths.
Check it with `cs336-sft check ex01`; stuck? `cs336-sft hint ex01`.

Write two functions.

token_lengths(problems, template, tokenizer) -> LengthTable
    problems    a sequence of Problem (fields question, answer, final), N of them, maybe none
    template    a PromptTemplate: template.prompt(problem) is the text that the model continues
    tokenizer   a Hugging Face tokenizer
    returns     LengthTable(prompt, answer): two tuples of N token counts, in the order of the problems.
                The answer is the raw reference answer, problem.answer, with its <<...>> annotations and its #### line.
                Prompt and answer are tokenized apart, and no special token is added to either.
                Nothing is stripped or cut.

length_percentiles(table) -> dict
    returns     {"prompt": {"50": ..., "90": ..., "95": ..., "99": ..., "99.5": ...}, "answer": {...}, "total": {...}}
                with floats, interpolated as numpy.percentile does. "total" is prompt and answer of one problem
                together.

By hand: prompts of 10 and 20 tokens, answers of 4 and 1. Totals are 14 and 21.
    50 %: prompt 15.0, answer 2.5, total 17.5        90 %: total 14 + 0.9 * 7 = 20.3
"""

from __future__ import annotations

import numpy as np  # noqa: F401 - for you

from cs336_sft.data.token_lengths import LengthTable


def token_lengths(problems, template, tokenizer) -> LengthTable:
    """Token counts of prompts and answers."""
    raise NotImplementedError


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    """Percentiles 50, 90, 95, 99 and 99.5 of prompt, answer and total."""
    raise NotImplementedError
