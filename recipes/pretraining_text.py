"""The text that the embedded base model is pretrained on: word problems as they stand in the wild.

The same generated problems as the course's training split, but in the surface forms of three imagined sources, none of
them GSM8K's: no answer ends in ``####``. The sources differ in two habits that a fine-tuner meets in every real base
model, and that the lessons need:

- how much of the reasoning they write down ("workbook" shows each calculation, "forum" mostly just states the answer),
  so that the base model knows more than its habitual answer shows, and
- whether a document ends after an answer or goes on with another problem, so that the base model stops unreliably.

Used by ``make_tiny_base.py``.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cs336_sft.data.word_problems import WordProblem, generate_word_problems


@dataclass(frozen=True)
class Source:
    """One imagined origin of documents.

    Attributes:
        name: for the model card.
        share: of the templates that come from this source.
        styles: style name -> weight.
        p_end: probability that the document ends (with end-of-text) after an answer.
    """

    name: str
    share: float
    styles: dict[str, float]
    p_end: float


SOURCES = (
    Source(
        "workbook",
        0.40,
        {"plain": 0.35, "annotated": 0.30, "numbered": 0.10, "equations": 0.10, "words": 0.10, "bare": 0.05},
        p_end=0.80,
    ),
    Source(
        "forum",
        0.35,
        {"bare": 0.50, "annotated": 0.25, "words": 0.13, "plain": 0.12},
        p_end=0.30,
    ),
    Source(
        "notes",
        0.25,
        {"equations": 0.35, "annotated": 0.30, "plain": 0.20, "words": 0.07, "boxed": 0.08},
        p_end=0.05,
    ),
)

_OPENINGS = (
    "Solve the problem step by step.",
    "Solve each problem and show your work.",
    "Here are some problems with their answers.",
    "Answer the question.",
    "Practice problems.",
    "Read the question and put the answer at the end.",
)
_FRAMES = (("Question: ", "\nAnswer:"), ("Q: ", "\nA:"), ("Problem: ", "\nSolution:"))
_FRAME_WEIGHTS = (0.7, 0.15, 0.15)
_CLOSINGS = ("The answer is {final}.", "So the answer is {final}.", "Answer: {final}", "{conclusion}.", "{conclusion}.")


def source_of(template: str) -> Source:
    """The source of a template: fixed by the template's name, so that a source has its own kinds of problem."""
    position = zlib.crc32(template.encode()) % 1000 / 1000
    for source in SOURCES:
        if position < source.share:
            return source
        position -= source.share
    return SOURCES[-1]


def render(problem: WordProblem, style: str, rng: random.Random) -> str:
    """The worked answer in one style, without a leading space."""
    closing = rng.choice(_CLOSINGS).format(final=problem.final_text, conclusion=problem.conclusion)
    steps = problem.steps
    if style == "bare":
        if rng.random() < 0.7:
            return f"The answer is {problem.final_text}."
        return f"{problem.final_text} {problem.unit}".rstrip() + "."
    if style == "words":
        # Results without their calculations: the model has to do the arithmetic in its head.
        return " ".join([*(f"{step.clause()}." for step in steps), closing])
    if style == "plain":
        return rng.choice((" ", "\n")).join([*(step.plain() for step in steps), closing])
    if style == "numbered":
        return "\n".join([*(f"{i}. {step.plain()}" for i, step in enumerate(steps, 1)), closing])
    if style == "equations":
        lines = [f"{step.expression} = {step.result}" for step in steps]
        return rng.choice(("\n", ", ")).join(lines) + f"\n{closing}"
    if style == "annotated":
        return "\n".join([*(step.annotated() for step in steps), closing])
    if style == "boxed":
        return "\n".join([*(step.plain() for step in steps), f"\\boxed{{{problem.final_text}}}"])
    raise ValueError(f"no style is called {style!r}")


def documents(count: int, seed: int, end_of_text: str) -> Iterator[str]:
    """About ``count`` problems as documents; those that end carry ``end_of_text``, the others run into the next."""
    rng = random.Random(f"documents/{seed}")
    by_source: dict[str, list[WordProblem]] = {source.name: [] for source in SOURCES}
    for problem in generate_word_problems(count, split="train", seed=seed):
        by_source[source_of(problem.template).name].append(problem)
    queues = {source.name: iter(by_source[source.name]) for source in SOURCES}
    open_sources: Sequence[Source] = [source for source in SOURCES if by_source[source.name]]
    while open_sources:
        source = rng.choices(open_sources, [len(by_source[s.name]) for s in open_sources])[0]
        text = _document(queues[source.name], source, rng, end_of_text)
        if text is None:
            open_sources = [s for s in open_sources if s is not source]
        else:
            yield text


def _document(queue: Iterator[WordProblem], source: Source, rng: random.Random, end_of_text: str) -> str | None:
    head, tail = rng.choices(_FRAMES, _FRAME_WEIGHTS)[0]
    parts = [rng.choice(_OPENINGS)] if rng.random() < 0.4 else []
    styles, weights = list(source.styles), list(source.styles.values())
    for _ in range(6):
        problem = next(queue, None)
        if problem is None:
            return None if not parts else "\n\n".join(parts) + "\n\n"
        parts.append(f"{head}{problem.question}{tail} {render(problem, rng.choices(styles, weights)[0], rng)}")
        if rng.random() < source.p_end:
            return "\n\n".join(parts) + end_of_text
    return "\n\n".join(parts) + "\n\n"
