"""ex08: the numbers of an evaluation, from graded generations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from cs336_sft.evaluation.metrics import Metrics
from cs336_sft.exercises.compare import Check, entries, slips
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.records import Generation, Graded, Problem


def _graded(number: int, tokens: int, text: str, finish: str, form: float, answer: float, lenient: float) -> Graded:
    problem = Problem(f"question {number}", "#### 5", "5", id=f"made/{number}")
    # The last id is end-of-text where the model stopped by itself.
    ids = (*(3 + i % 5 for i in range(tokens - 1)), 0 if finish == "stop" else 9)[:tokens]
    # A string of its own, as one read from a file is: `finish_reason is "length"` must not work.
    generation = Generation("Q", ids, text, "".join(list(finish)))
    return Graded(problem, generation, form, answer, form * answer, lenient)


def _random(seed: int) -> Sequence[Graded]:
    """Make records, several of one question, equal ones, none of some kind."""
    draw = random.Random(seed)
    made = []
    for _ in range(draw.choice((1, 2, 3, 7, 20))):
        rewards = [draw.choice((0.0, 1.0)) for _ in range(3)]
        text, finish = draw.choice(("", "5", "#### 5 and so on and on")), draw.choice(("stop", "length"))
        made.append(_graded(draw.randrange(3), draw.choice((0, 1, 5, 8, 300)), text, finish, *rewards))
    return (list, tuple)[seed % 2](made + draw.choices(made, k=seed % 3))


def _cases() -> list[Case]:
    short = _graded(0, 4, "#### 5", "stop", 1.0, 1.0, 1.0)
    long = _graded(1, 8, "#### 5 and on and on and on", "length", 1.0, 1.0, 1.0)
    wrong = _graded(2, 6, "#### 7", "stop", 1.0, 0.0, 0.0)
    bare = _graded(3, 8, "it is five, I think: 5", "stop", 0.0, 0.0, 1.0)
    cut = _graded(4, 8, "so", "length", 0.0, 0.0, 0.0)
    # The answer is right but the structure is incomplete.
    loose = _graded(5, 5, "5 ####", "stop", 0.0, 1.0, 1.0)
    return [
        Case(([short],), label="one right answer of 4 tokens that stopped"),
        Case(([short, wrong],), label="a right one of 4 tokens and a wrong one of 6"),
        Case(([short, long],), label="one stopped after 4 tokens, one was cut off after 8, both right"),
        Case(([short, bare],), label="one right, one without the format that a lenient reader takes for right"),
        Case(([short, loose],), label="one right, one with answer_reward 1 but format_reward 0"),
        Case(([long, bare],), label="two of 8 tokens: one cut off by the limit, one stopped there by itself"),
        Case(([short, wrong, bare],), label="one right, one wrong, one without the format"),
        Case(([short, long, wrong, bare, cut, loose],), label="six of all kinds"),
        Case(([wrong, cut],), label="none right", why="no right answer at all: the accuracy is 0, not an error"),
        *(Case((_random(seed),), label="random records, some of the same question, some equal") for seed in range(12)),
    ]


def _length(item: Graded) -> int:
    return len(item.generation.token_ids)


def _stopped(item: Graded) -> bool:
    return item.generation.finish_reason == "stop"


Rule = Callable[[Sequence[Graded]], float]


def _with(**rules: Rule) -> Callable[[Sequence[Graded]], dict[str, float]]:
    right: dict[str, Rule] = {
        "accuracy": lambda g: fmean(x.reward for x in g),
        "format_accuracy": lambda g: fmean(x.format_reward for x in g),
        "trunc_rate": lambda g: fmean(not _stopped(x) for x in g),
        "avg_gen_len": lambda g: fmean(_length(x) for x in g),
    }
    return lambda graded: {key: rule(graded) for key, rule in (right | rules).items()}


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return fmean(values) if values else 0.0


def _per_question(graded: Sequence[Graded], one: Callable[[list[float]], float]) -> float:
    return fmean(one([x.reward for x in graded if x.problem.id == name]) for name in {x.problem.id for x in graded})


SLIPS = slips(
    "ex08",
    {
        "answer-reward": _with(accuracy=lambda g: fmean(x.answer_reward for x in g)),
        "lenient": _with(accuracy=lambda g: fmean(x.lenient for x in g)),
        "among-formatted": _with(accuracy=lambda g: _mean(x.reward for x in g if x.format_reward)),
        "among-finished": _with(accuracy=lambda g: _mean(x.reward for x in g if _stopped(x))),
        "percent": lambda g: {k: v * (1 if k == "avg_gen_len" else 100) for k, v in _with()(g).items()},
        "trunc-inverted": _with(trunc_rate=lambda g: fmean(_stopped(x) for x in g)),
        "trunc-by-text": _with(trunc_rate=lambda g: fmean(len(x.generation.text) >= 20 for x in g)),
        "trunc-by-longest": _with(trunc_rate=lambda g: fmean(_length(x) >= max(map(_length, g)) for x in g)),
        "trunc-by-limit": _with(trunc_rate=lambda g: fmean(_length(x) >= 8 for x in g)),
        "length-in-characters": _with(avg_gen_len=lambda g: fmean(len(x.generation.text) for x in g)),
        "whole-length": _with(avg_gen_len=lambda g: sum(_length(x) for x in g) // len(g)),
        "distinct-tokens": _with(avg_gen_len=lambda g: fmean(len(set(x.generation.token_ids)) for x in g)),
        "length-of-finished": _with(avg_gen_len=lambda g: _mean(_length(x) for x in g if _stopped(x))),
        "format-of-finished": _with(format_accuracy=lambda g: fmean(x.format_reward * (_stopped(x)) for x in g)),
        "trunc-of-unformatted": _with(trunc_rate=lambda g: fmean(not _stopped(x) and not x.format_reward for x in g)),
        "empty-left-out": _with(avg_gen_len=lambda g: _mean(_length(x) for x in g if x.generation.token_ids)),
        "set": lambda g: _with()(list(dict.fromkeys(g))),
        "per-question": _with(accuracy=lambda g: _per_question(g, fmean)),
        "any-of-question": _with(accuracy=lambda g: _per_question(g, max)),
        "length-in-words": _with(avg_gen_len=lambda g: fmean(len(x.generation.text.split()) for x in g)),
        "eos-not-counted": _with(avg_gen_len=lambda g: fmean(_length(x) - (_stopped(x)) for x in g)),
        "length-of-correct": _with(avg_gen_len=lambda g: _mean(_length(x) for x in g if x.reward)),
    },
)


def _view(case: Case, seen: Observation) -> Any:
    value = seen.value.as_dict() if isinstance(seen.value, Metrics) else seen.value
    return entries(value, ("accuracy", "format_accuracy", "trunc_rate", "avg_gen_len"))


# The reference is the exercise's own: the library averages over a problem's samples first.
CHECKS = (Check("compute_metrics", _cases(), _with(), SLIPS, view=_view),)
