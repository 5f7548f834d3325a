"""From templates to splits: reproducible, and without overlap."""

from __future__ import annotations

import hashlib
import inspect
import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType

from cs336_sft.data.word_problems import fractions, groups, heldout, money, rates
from cs336_sft.data.word_problems.draft import Draft, Redraw, WordProblem
from cs336_sft.errors import ConfigError
from cs336_sft.records import Problem

SPLITS = ("train", "validation", "test", "heldout_templates")


def _templates(*modules: ModuleType) -> dict[str, Callable[[Draft], WordProblem]]:
    """Return the functions that modules define, in the order of the files."""
    return {n: f for m in modules for n, f in vars(m).items() if inspect.isfunction(f) and f.__module__ == m.__name__}


TEMPLATES = _templates(money, fractions, rates, groups)
HELDOUT_TEMPLATES = _templates(heldout)

_PATIENCE = 200  # how often a question may come up again in a row before it is given once more
_NUMBER = re.compile(r"\d+")


def split_of(question: str) -> str:
    """Return the split of a question, by a hash of its numbers in their order.

    A test problem is thus not even a training problem with other names. Of 100 sequences of numbers about 90 go to
    train, 5 to validation and 5 to test.
    """
    digest = hashlib.blake2b(",".join(_NUMBER.findall(question)).encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 100
    return "train" if bucket < 90 else "validation" if bucket < 95 else "test"


def _iterate(split: str, seed: int) -> Iterator[WordProblem]:
    """Yield problems of a split without end, each template once a round."""
    rng = random.Random(f"{split}/{seed}")
    is_heldout = split == "heldout_templates"
    order = list((HELDOUT_TEMPLATES if is_heldout else TEMPLATES).values())
    seen: set[str] = set()
    while True:
        rng.shuffle(order)
        for template in order:
            repeats = 0
            while True:
                try:
                    problem = template(Draft(rng, template.__name__))
                except Redraw:
                    continue
                if not is_heldout and split_of(problem.question) != split:
                    continue
                if problem.question not in seen or repeats == _PATIENCE:
                    break
                repeats += 1
            seen.add(problem.question)
            yield problem


def generate_word_problems(n: int, *, split: str, seed: int = 0) -> list[WordProblem]:
    """Generate the first ``n`` problems of a split, with their structure.

    A smaller ``n`` gives a prefix of a larger one with the same seed. No seed can put one question into two of
    ``train``, ``validation`` and ``test`` (see `split_of`); the templates of ``heldout_templates`` are used there only.
    Raises ConfigError: ``n`` is negative, or there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"no split of the word problems is called {split!r}", f"choose one of {', '.join(SPLITS)}")
    if n < 0:
        raise ConfigError(f"n is {n}, but a number of problems can't be negative", "ask for 0 or more problems")
    return list(islice(_iterate(split, seed), n))


def generate_problems(n: int, *, split: str, seed: int = 0) -> list[Problem]:
    """Generate the problems of `generate_word_problems` in GSM8K's form.

    >>> problem = generate_problems(1, split="test")[0]
    >>> problem.id, problem.answer.endswith(f"#### {problem.final}")
    ('tiny/test/0/0', True)
    """
    return [
        Problem(made.question, made.answer, made.final_text, id=f"tiny/{split}/{seed}/{index}", template=made.template)
        for index, made in enumerate(generate_word_problems(n, split=split, seed=seed))
    ]
