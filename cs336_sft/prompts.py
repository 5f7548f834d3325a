"""Prompt templates: how a problem becomes the text that the model continues, and the response it should learn.

``gsm8k`` is the course's own; ``r1_zero`` and ``question_only`` are those of the CS336 assignment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cs336_sft.errors import ConfigError
from cs336_sft.records import Problem

Style = Literal["gsm8k", "r1_zero", "question_only"]  # where a response has its answer: after ####, in tags, in a box

_R1_ZERO = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. "
    "The Assistant first thinks about the reasoning process in the mind and then provides the User with the answer. "
    "The reasoning process is enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.\n"
    "User: {question}\nAssistant: <think>"
)


def _reasoning(problem: Problem) -> str:
    return problem.answer.rsplit("####", 1)[0].rstrip()


@dataclass(frozen=True)
class PromptTemplate:
    """A prompt, and the response that supervised fine-tuning aims at.

    >>> problem = Problem("How many?", "2+3 = <<2+3=5>>5\\n#### 5", "5")
    >>> get_template("gsm8k").prompt(problem)[-29:]
    '\\n\\nQuestion: How many?\\nAnswer:'
    >>> get_template("r1_zero").respond(problem)
    ' 2+3 = <<2+3=5>>5 </think> <answer> 5 </answer>'
    """

    name: str
    text: str  # the prompt, with {question} where the question goes
    # The target text. It begins with a space where the prompt ends in a word, as byte-pair tokenizers expect
    # (" Natalia" is one token, "Natalia" is not).
    respond: Callable[[Problem], str]
    style: Style  # which grader reads the responses
    stop: tuple[str, ...] = ()  # strings at which generation may end (part of the response)

    def __post_init__(self) -> None:
        if "{question}" not in self.text:
            problem = f"the text of template {self.name!r} has no {{question}}"
            raise ConfigError(problem, "put it where the question goes")

    def prompt(self, problem: Problem | str) -> str:
        """Return the text to continue, for a problem or a question."""
        question = problem if isinstance(problem, str) else problem.question
        before, _, after = self.text.rpartition("{question}")  # not str.format: a question may hold braces
        return before + question + after

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that the template does (its name does not count)."""
        response = self.respond(Problem("a question", "a step\n#### 1", "1"))
        parts = repr((self.text, response, self.style, self.stop))
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def few_shot(template: PromptTemplate, problems: Sequence[Problem]) -> PromptTemplate:
    """Return the template with solved problems before the question.

    They repeat the paragraph with the question; an instruction in an earlier paragraph is given once.

    >>> one = few_shot(get_template("question_only"), [Problem("1 + 1?", "1+1=2\\n#### 2", "2")])
    >>> one.name, one.prompt("2 + 3?")
    ('question_only_1_shot', '1 + 1?\\n1+1=2\\n\\\\boxed{2}\\n\\n2 + 3?')
    """
    start = template.text.rfind("\n\n", 0, template.text.rindex("{question}")) + 2
    instruction, frame = (template.text[:start], template.text[start:]) if start > 1 else ("", template.text)
    one = replace(template, text=frame)
    solved = "".join(one.prompt(problem) + one.respond(problem) + "\n\n" for problem in problems)
    return replace(template, name=f"{template.name}_{len(problems)}_shot", text=instruction + solved + frame)


_GSM8K = "Solve the problem step by step and put the final answer on the last line after ####.\n\n"
_TEMPLATES = {
    "gsm8k": PromptTemplate("gsm8k", _GSM8K + "Question: {question}\nAnswer:", lambda p: f" {p.answer}", "gsm8k"),
    "r1_zero": PromptTemplate(
        "r1_zero",
        _R1_ZERO,
        lambda p: f" {_reasoning(p)} </think> <answer> {p.final} </answer>",
        "r1_zero",
        ("</answer>",),
    ),
    "question_only": PromptTemplate(
        "question_only", "{question}", lambda p: f"\n{_reasoning(p)}\n\\boxed{{{p.final}}}", "question_only"
    ),
}
TEMPLATE_NAMES = tuple(_TEMPLATES)


def get_template(name: str) -> PromptTemplate:
    """Return the template of that name: gsm8k, r1_zero or question_only."""
    if name not in TEMPLATE_NAMES:
        raise ConfigError(f"no prompt template is called {name!r}", f"choose one of {', '.join(TEMPLATE_NAMES)}")
    return _TEMPLATES[name]
