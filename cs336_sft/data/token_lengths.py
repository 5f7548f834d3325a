"""Lengths of prompts and answers in tokens, from which the limits of training and generation follow."""

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
    """Token counts of prompts, of raw reference answers and of both together, one entry a problem."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def total(self) -> tuple[int, ...]:
        return tuple(prompt + answer for prompt, answer in zip(self.prompt, self.answer, strict=True))


def token_lengths(
    problems: Iterable[Problem], template: PromptTemplate, tokenizer: PreTrainedTokenizerBase
) -> LengthTable:
    """Count the tokens of every prompt and every answer, tokenized apart.

    The answer is counted as the file has it: with the calculator annotations, without the space and the end-of-text
    token that ``make_examples`` adds.
    """
    problems = list(problems)
    prompts = encode([template.prompt(problem) for problem in problems], tokenizer, add_bos=True)
    answers = encode([problem.answer for problem in problems], tokenizer)
    return LengthTable(prompt=tuple(map(len, prompts)), answer=tuple(map(len, answers)))


def length_percentiles(table: LengthTable) -> dict[str, dict[str, float]]:
    """Compute percentiles 50, 90, 95, 99 and 99.5 of prompt, answer and total.

    A percentile of the total is not the sum of the two others: long questions need not have long answers.
    Raises DataError: the table is empty.
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
    """Compute `length_percentiles` of each JSONL file, rounded to one decimal."""
    result = {}
    for path in paths:
        parts = length_percentiles(token_lengths(read_problems(path), template, tokenizer))
        result[os.fspath(path)] = {part: {p: round(v, 1) for p, v in row.items()} for part, row in parts.items()}
    return result
