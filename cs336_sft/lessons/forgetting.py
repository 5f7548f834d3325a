"""Forgetting: the losses of fine-tuning, measured on things that were not trained.

    tasks = calculations(problems)                        # the reference answers' arithmetic, in another format
    accuracy = fmean(score_calculations(sampler, tasks))  # before and after training
    loss = text_loss(model, tokenizer, texts)             # of text like the model's pretraining

A calculation is posed in a layout that the training data do not have, with the lines before it given, so that only the
arithmetic is in question.
"""

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


def calculations(problems: Sequence[Problem], frame: str = "Q: {question}\nA:") -> list[Calculation]:
    """Pose each calculation of the reference answers, after the lines before it.

    Answers need GSM8K's annotations `<<48/2=24>>`. In `frame`, `{question}` is replaced by the question.

    >>> problem = Problem("How many?", "He has 2*3 = <<2*3=6>>6. He gets 6+1 = <<6+1=7>>7.\\n#### 7", "7")
    >>> for task in calculations([problem]):
    ...     print(repr(task.prompt), task.result)
    'Q: How many?\\nA: 2*3 =' 6
    'Q: How many?\\nA: 2*3 = 6\\n6+1 =' 7
    """
    tasks = []
    for problem in problems:
        text = frame.replace("{question}", problem.question) + " "
        for expression, result in _ANNOTATION.findall(problem.answer):
            if evaluate_expression(result) is not None:
                tasks.append(Calculation(f"{text}{expression} =", result))
                text += f"{expression} = {result}\n"
    return tasks


def score_calculations(sampler: Sampler, tasks: Sequence[Calculation]) -> list[float]:
    """Return 1.0 for each calculation that the model completes rightly, else 0.0.

    Greedily, and by the first number that it writes.
    """
    if not tasks:
        raise DataError("there are no calculations", "give problems whose answers have annotations <<48/2=24>>")
    answers = sampler.generate([task.prompt for task in tasks], SamplingConfig(max_new_tokens=_NEW_TOKENS))
    return [float(is_completed(samples[0].text, task.result)) for samples, task in zip(answers, tasks, strict=True)]


def is_completed(text: str, result: str) -> bool:
    """Test that a continuation begins with the number."""
    match = _NUMBER.match(text)
    wanted = evaluate_expression(result)
    return match is not None and wanted is not None and evaluate_expression(match[1].replace(",", "")) == wanted


def text_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Compute the mean NLL of texts after their first tokens, in nats per token."""
    encoded = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    examples = [Example((ids[0],), tuple(ids[1:])) for ids in encoded if len(ids) > 1]
    if not examples:
        raise DataError("there is no text of at least two tokens", "give running text")
    return validation_loss(model, examples)
