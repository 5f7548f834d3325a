"""ex12: which samples expert iteration trains on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cs336_sft.exercises.compare import Check, Misshapen, slips
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.report import Line, line
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.records import Generation, Graded, Problem


def _sample(question: str, sample: int, text: str, form: float, answer: float, lenient: float) -> Graded:
    problem = Problem(f"question {question}", "#### 5", "5", id=f"made/{question}")
    ids = tuple(ord(c) for c in text)
    generation = Generation(problem.question, ids, text, "stop", sample=sample)
    return Graded(problem, generation, form, answer, form * answer, lenient)


def _random(seed: int) -> Sequence[Graded]:
    """Make samples with texts that are nearly the same, right and wrong ones."""
    draw = random.Random(seed)
    long = "so " * 25
    texts = (f"{long}x 5", f"{long}y 5", "x 5", "x  5", "X 5", " x 5\n", "", "y", "yx 5")
    made = []
    for i in range(draw.choice((1, 12, 30))):
        rewards = [draw.choice((0.0, 1.0, 1.0, 1.0)), draw.choice((0.0, 1.0, 1.0, 1.0)), draw.choice((0.0, 1.0))]
        item = _sample(draw.choice(("A", "B", "C", "Ay")), i, draw.choice(texts), *rewards)
        same = replace(item.problem, question="the same question A")  # only the id tells A and B apart
        problem = same if item.problem.id != "made/C" else item.problem
        generation = replace(item.generation, finish_reason=draw.choice(("stop", "length")))
        made.append(replace(item, problem=problem, generation=generation))
    return (list, tuple)[seed % 2](made)


def _cases() -> list[Case]:
    shipped = read_asset("cases")
    samples = [_sample(*row) for row in shipped["ex12_samples"]]
    made = [
        Case(([samples[i] for i in indices], *[cap] * (cap >= 0)), label=label, why=why)
        for indices, cap, label, why in shipped["ex12"]
    ]
    drawn = [(seed, cap) for seed in range(18) for cap in ((None, 0, 1, 2) if seed < 6 else (None,))]
    return made + [Case((_random(seed), cap), label=f"random samples, max_per_question={cap}") for seed, cap in drawn]


def _select(
    *,
    keep: Callable[[Graded], bool] = lambda item: item.reward > 0,
    identity: Callable[[Graded], Any] | None = lambda item: (item.problem.id, item.generation.text.strip()),
    group: Callable[[Graded], Any] = lambda item: item.problem.id,
    cap_first: str = "",
    capped: bool = True,
) -> Callable[..., list[Graded]]:
    """Make the reference, or, with one part replaced, a slip.

    ``cap_first`` says what the cap counts too soon.
    """

    def select(graded: Sequence[Graded], max_per_question: int | None = None) -> list[Graded]:
        taken: Counter[Any] = Counter()
        seen: set[Any] = set()
        chosen = []
        for item in graded:
            if capped and max_per_question is not None and taken[group(item)] >= max_per_question:
                continue
            right = keep(item)
            new = identity is None or identity(item) not in seen
            taken[group(item)] += cap_first == "all" or (cap_first == "right" and right) or (right and new)
            if right and new:
                if identity is not None:
                    seen.add(identity(item))
                chosen.append(item)
        return chosen

    return select


_REFERENCE = _select()


def _fails_on_zero(graded: Sequence[Graded], max_per_question: int | None = None) -> list[Graded]:
    chosen = _REFERENCE(graded, max_per_question)
    if not chosen:
        raise ValueError("nothing")
    return chosen


def _grouped(graded: Sequence[Graded], max_per_question: int | None = None) -> list[Graded]:
    chosen = _REFERENCE(graded, max_per_question)
    questions = list(dict.fromkeys(item.problem.id for item in chosen))
    return sorted(chosen, key=lambda item: questions.index(item.problem.id))


SLIPS = slips(
    "ex12",
    {
        "keeps-wrong": _select(keep=lambda item: True),
        "keeps-formatted": _select(keep=lambda item: item.format_reward > 0),
        "keeps-answer": _select(keep=lambda item: item.answer_reward > 0),
        "keeps-lenient": _select(keep=lambda item: item.lenient > 0),
        "duplicates": _select(identity=None),
        "blanks": _select(identity=lambda item: (item.problem.id, item.generation.text)),
        "all-blanks-and-case": _select(identity=lambda x: (x.problem.id, "".join(x.generation.text.lower().split()))),
        "joined-key": _select(identity=lambda item: item.problem.id + item.generation.text.strip()),
        "beginnings": _select(identity=lambda item: (item.problem.id, item.generation.text.strip()[:40])),
        "question-text": _select(
            identity=lambda x: (x.problem.question, x.generation.text.strip()), group=lambda x: x.problem.question
        ),
        "truncated-left-out": _select(keep=lambda item: item.reward > 0 and item.generation.finish_reason == "stop"),
        "cap-0": lambda graded, cap=None: _REFERENCE(graded, cap or None),
        "one-too-many": lambda graded, cap=None: _REFERENCE(graded, None if cap is None else cap + 1),
        "across-questions": _select(identity=lambda item: item.generation.text.strip()),
        "no-cap": _select(capped=False),
        "cap-before-filter": _select(cap_first="all"),
        "cap-before-dedup": _select(cap_first="right"),
        "cap-over-all": _select(group=lambda item: 0),
        "keeps-last": lambda graded, cap=None: _REFERENCE(graded[::-1], cap)[::-1],
        "grouped": _grouped,
        "zero-correct-all": lambda graded, cap=None: _REFERENCE(graded, cap) or graded,
        "zero-correct-fails": _fails_on_zero,
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value, given = seen.value, case.args[0]
    if not isinstance(value, (list, tuple)):
        return Misshapen("select_samples returns something else than a list")
    if any(item not in given for item in value):
        return Misshapen("select_samples returns something that is none of the given samples")
    return [given.index(item) for item in value]


def _lines(case: Case, expected: Any, yours: Any) -> list[Line]:
    lines = [line("sample  question  reward  expected  yours  text")]
    for i, item in enumerate(case.args[0]):
        want, has = ("kept" if i in chosen else "-" for chosen in (expected, yours))
        style = "bad" if want != has else ""
        question, reward = item.problem.question[-1], item.reward
        lines.append(line(f"{i:<8}{question:<10}{reward:<8g}{want:<10}{has:<7}{item.generation.text!r}", style))
    if sorted(expected) == sorted(yours):
        lines.append(line(f"the order differs: expected {expected}, yours {yours}", "bad"))
    return lines


CHECKS = (Check("select_samples", _cases(), _REFERENCE, SLIPS, view=_view, show=_lines),)
