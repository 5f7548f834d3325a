"""How long the data is, in tokens: what the limits on prompt, answer and generation have to hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cs336_sft.data.gsm8k import read_problems
from cs336_sft.errors import DataError
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Problem
from cs336_sft.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (50, 90, 95, 99, 99.5)


@dataclass(frozen=True)
class LengthTable:
    """Token counts, one entry a problem, in the problems' order.

    Attributes:
        prompt: of the prompt that the template makes.
        answer: of the raw reference answer.

    >>> LengthTable(prompt=(5, 7), answer=(3, 1)).total
    (8, 8)
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def total(self) -> tuple[int, ...]:
        """Prompt and answer together, problem by problem."""
        return tuple(prompt + answer for prompt, answer in zip(self.prompt, self.answer, strict=True))


def token_lengths(
    problems: Iterable[Problem], template: PromptTemplate, tokenizer: PreTrainedTokenizerBase
) -> LengthTable:
    """Count the tokens of every prompt and every answer, tokenized apart, without special tokens.

    The answer is counted as it stands in the file: without the space and the end-of-text token that
    ``make_examples`` adds, and with the calculator annotations.

    >>> from cs336_sft.prompts import get_template
    >>> def letters(texts, **kwargs):  # a token is a character
    ...     return {"input_ids": [list(text) for text in texts]}
    >>> table = token_lengths([Problem("1 + 1?", "#### 2", "2")], get_template("question_only"), letters)
    >>> table
    LengthTable(prompt=(6,), answer=(6,))
    """
    problems = list(problems)
    prompts = encode([template.prompt(problem) for problem in problems], tokenizer)
    answers = encode([problem.answer for problem in problems], tokenizer)
    return LengthTable(prompt=tuple(map(len, prompts)), answer=tuple(map(len, answers)))


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    """Percentiles 50, 90, 95, 99 and 99.5 of prompt, answer and total, as ``numpy.percentile`` interpolates them.

    A percentile of the total is not the sum of the two others: long questions need not have long answers.

    Raises:
        DataError: the table is empty.

    >>> percentiles = length_percentiles(LengthTable(prompt=(10, 20), answer=(4, 1)))
    >>> percentiles["prompt"]["50"], percentiles["answer"]["50"], percentiles["total"]["90"]
    (15.0, 2.5, 20.3)
    >>> list(percentiles["total"])
    ['50', '90', '95', '99', '99.5']
    """
    if not table.prompt:
        raise DataError("there are no lengths to take percentiles of", "give at least one problem")
    return {
        part: {f"{p:g}": float(np.percentile(getattr(table, part), p)) for p in PERCENTILES}
        for part in ("prompt", "answer", "total")
    }


def file_length_percentiles(
    paths: Sequence[str | os.PathLike[str]], template: PromptTemplate, tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, dict[str, float]]]:
    """``length_percentiles`` of each JSONL file, to one decimal: ``{path: {"prompt": {"50": 78.0, ...}, ...}, ...}``.

    Raises:
        DataError: a file that ``read_problems`` can't read.

    >>> file_length_percentiles([], template=None, tokenizer=None)
    {}
    """
    result = {}
    for path in paths:
        percentiles = length_percentiles(token_lengths(read_problems(path), template, tokenizer))
        result[os.fspath(path)] = {
            part: {p: round(value, 1) for p, value in row.items()} for part, row in percentiles.items()
        }
    return result
