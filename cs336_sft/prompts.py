"""Prompt templates: how a problem becomes the text that the model continues, and what it should answer.

``gsm8k`` is the course's own; ``r1_zero`` and ``question_only`` are those of the CS336 assignment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cs336_sft.errors import ConfigError
from cs336_sft.records import Problem

_R1_ZERO = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
    "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
    "User: {question}\nAssistant: <think>"
)


def _reasoning(problem: Problem) -> str:
    """The reference answer without its last ``####`` line."""
    return problem.answer.rsplit("####", 1)[0].rstrip()


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt and the response that supervised fine-tuning aims at.

    Attributes:
        name: also names the grading style (``gsm8k``, ``r1_zero``, ``question_only``).
        text: the prompt, with ``{question}`` where the question goes.
        respond: the target text for a problem. It begins with a space where the prompt ends in a word, as a
            byte-pair tokenizer would have it in running text (" Natalia" is one token, "Natalia" is not).
        stop: strings at which generation may end (part of the response).

    >>> problem = Problem("How many?", "2+3 = <<2+3=5>>5\\n#### 5", "5")
    >>> print(get_template("gsm8k").prompt(problem))
    Solve the problem step by step and put the final answer on the last line after ####.
    <BLANKLINE>
    Question: How many?
    Answer:
    >>> get_template("gsm8k").respond(problem)
    ' 2+3 = <<2+3=5>>5\\n#### 5'
    >>> get_template("r1_zero").respond(problem)
    ' 2+3 = <<2+3=5>>5 </think> <answer> 5 </answer>'
    """

    name: str
    text: str
    respond: Callable[[Problem], str]
    stop: tuple[str, ...] = ()

    def prompt(self, problem: Problem | str) -> str:
        """The text to continue. ``str.replace`` rather than ``format``: a question may hold braces."""
        question = problem if isinstance(problem, str) else problem.question
        return self.text.replace("{question}", question)


_TEMPLATES = (
    PromptTemplate(
        name="gsm8k",
        text="Solve the problem step by step and put the final answer on the last line after ####.\n\n"
        "Question: {question}\nAnswer:",
        respond=lambda problem: " " + problem.answer,
    ),
    PromptTemplate(
        name="r1_zero",
        text=_R1_ZERO,
        respond=lambda problem: f" {_reasoning(problem)} </think> <answer> {problem.final} </answer>",
        stop=("</answer>",),
    ),
    PromptTemplate(
        name="question_only",
        text="{question}",
        respond=lambda problem: f"\n{_reasoning(problem)}\n\\boxed{{{problem.final}}}",
    ),
)

TEMPLATE_NAMES = tuple(template.name for template in _TEMPLATES)


def get_template(name: str) -> PromptTemplate:
    """The template of that name.

    Raises:
        ConfigError: there is none of that name.
    """
    for template in _TEMPLATES:
        if template.name == name:
            return template
    raise ConfigError(f"no prompt template is called {name!r}", f"choose one of {', '.join(TEMPLATE_NAMES)}")
