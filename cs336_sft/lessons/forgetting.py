"""Forgetting, measured on things that were not trained: arithmetic in another layout, and running text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cs336_sft.data.calculator_annotations import evaluate_expression
from cs336_sft.errors import DataError
from cs336_sft.evaluation.response_scores import validation_loss
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.records import Example, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ANNOTATION = re.compile(r"<<([^<>=]{1,200})=([^<>=]{1,50})>>")
_NUMBER = re.compile(r"\s{0,4}\$?\s?(-?[0-9][0-9,]{0,30}(?:\.[0-9]{1,20})?)", re.ASCII)
# Enough for a space and seven digits, each a token of its own.
_NEW_TOKENS = 8


@dataclass(frozen=True)
class Calculation:
    """A line to complete: `prompt` ends in `=`, and the number `result` should follow."""

    prompt: str
    result: str


def calculations(problems: Sequence[Problem]) -> list[Calculation]:
    """Pose each calculation `<<48/2=24>>` of the answers, after the lines before it.

    >>> problem = Problem("How many?", "He has 2*3 = <<2*3=6>>6. He gets 6+1 = <<6+1=7>>7.\\n#### 7", "7")
    >>> [task.prompt for task in calculations([problem])]
    ['Q: How many?\\nA: 2*3 =', 'Q: How many?\\nA: 2*3 = 6\\n6+1 =']
    """
    tasks = []
    for problem in problems:
        text = f"Q: {problem.question}\nA: "
        for expression, result in _ANNOTATION.findall(problem.answer):
            if evaluate_expression(result) is not None:
                tasks.append(Calculation(f"{text}{expression} =", result))
                text += f"{expression} = {result}\n"
    return tasks


def score_calculations(sampler: Sampler, tasks: Sequence[Calculation]) -> list[float]:
    """Return 1.0 for each calculation that the model completes rightly, else 0.0."""
    if not tasks:
        raise DataError("there are no calculations", "give problems whose answers have annotations <<48/2=24>>")
    answers = sampler.generate([task.prompt for task in tasks], SamplingConfig(max_new_tokens=_NEW_TOKENS))
    return [float(is_completed(samples[0].text, task.result)) for samples, task in zip(answers, tasks, strict=True)]


def is_completed(text: str, result: str) -> bool:
    """Test that a continuation begins with the number."""
    match, wanted = _NUMBER.match(text), evaluate_expression(result)
    return bool(match and wanted is not None and evaluate_expression(match[1].replace(",", "")) == wanted)


def text_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Compute the mean NLL of texts after their first tokens, in nats per token."""
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    examples = [Example((ids[0],), tuple(ids[1:])) for ids in encoded if len(ids) > 1]
    if not examples:
        raise DataError("there is no text of at least two tokens", "give running text")
    return validation_loss(model, examples)
