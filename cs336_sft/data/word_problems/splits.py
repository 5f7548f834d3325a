"""From templates to splits: who gets which problem, reproducibly and without overlap."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from itertools import islice

from cs336_sft.data.word_problems import (
    comparison as templates_comparison,
)
from cs336_sft.data.word_problems import (
    fractions as templates_parts,
)
from cs336_sft.data.word_problems import (
    groups as templates_groups,
)
from cs336_sft.data.word_problems import (
    heldout as templates_heldout,
)
from cs336_sft.data.word_problems import (
    money as templates_money,
)
from cs336_sft.data.word_problems import (
    rates as templates_rates,
)
from cs336_sft.data.word_problems.draft import Draft, Redraw
from cs336_sft.data.word_problems.problem import WordProblem, to_problem
from cs336_sft.errors import ConfigError
from cs336_sft.records import Problem

SPLITS = ("train", "validation", "test", "heldout_templates")

Template = Callable[[Draft], WordProblem]
_TEMPLATES: tuple[Template, ...] = (
    *templates_money.TEMPLATES,
    *templates_parts.TEMPLATES,
    *templates_rates.TEMPLATES,
    *templates_groups.TEMPLATES,
    *templates_comparison.TEMPLATES,
)
TEMPLATE_NAMES = tuple(template.__name__ for template in _TEMPLATES)
HELDOUT_TEMPLATE_NAMES = tuple(template.__name__ for template in templates_heldout.TEMPLATES)

# How often a question that was already given may come up in a row before it is given once more.
_PATIENCE = 200
_NUMBER = re.compile(r"\d+")


def split_of(question: str) -> str:
    """The split that a question belongs to: a hash of its numbers, in their order, decides.

    The numbers rather than the whole text: a test problem is then not even a training problem with other names.
    Of 100 sequences of numbers about 90 go to train, 5 to validation and 5 to test.

    >>> split_of("Tom has 3 boxes of 12 pencils.") == split_of("Mia has 3 bags of 12 pears.")
    True
    """
    digest = hashlib.blake2b(",".join(_NUMBER.findall(question)).encode(), digest_size=8).digest()
    bucket = int.from_bytes(digest, "big") % 100
    return "train" if bucket < 90 else "validation" if bucket < 95 else "test"


def _draw(template: Template, rng: random.Random) -> WordProblem:
    while True:
        try:
            return template(Draft(rng, template.__name__))
        except Redraw:
            continue


def iterate_word_problems(split: str, seed: int = 0) -> Iterator[WordProblem]:
    """Endless problems of a split. In every round each template comes once, in a new order.

    Within one iteration no question comes twice (unless a template has run out of new ones).

    Raises:
        ConfigError: there is no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"no split of the word problems is called {split!r}", f"choose one of {', '.join(SPLITS)}")
    return _iterate(split, seed)


def _iterate(split: str, seed: int) -> Iterator[WordProblem]:
    rng = random.Random(f"{split}/{seed}")
    heldout = split == "heldout_templates"
    order = list(templates_heldout.TEMPLATES if heldout else _TEMPLATES)
    seen: set[int] = set()
    while True:
        rng.shuffle(order)
        for template in order:
            repeats = 0
            while True:
                problem = _draw(template, rng)
                if not heldout and split_of(problem.question) != split:
                    continue
                key = int.from_bytes(hashlib.blake2b(problem.question.encode(), digest_size=8).digest(), "big")
                if key not in seen or repeats == _PATIENCE:
                    break
                repeats += 1
            seen.add(key)
            yield problem


def generate_word_problems(n: int, *, split: str, seed: int = 0) -> list[WordProblem]:
    """The first ``n`` problems of a split, with their structure.

    A smaller ``n`` gives a prefix of a larger one with the same seed. No seed can put one question into two of
    ``train``, ``validation`` and ``test`` (see `split_of`); the templates of ``heldout_templates`` are used there only.

    Raises:
        ConfigError: ``n`` is negative, or there is no such split.

    >>> small = generate_word_problems(3, split="train", seed=1)
    >>> small == generate_word_problems(9, split="train", seed=1)[:3]
    True
    """
    if n < 0:
        raise ConfigError(f"n is {n}, but a number of problems can't be negative", "ask for 0 or more problems")
    return list(islice(iterate_word_problems(split, seed), n))


def generate_problems(n: int, *, split: str, seed: int = 0) -> list[Problem]:
    """The same problems in the same order as `generate_word_problems`, in GSM8K's form.

    Raises:
        ConfigError: ``n`` is negative, or there is no such split.

    >>> problem = generate_problems(1, split="test")[0]
    >>> problem.id, problem.answer.endswith(f"#### {problem.final}")
    ('tiny/test/0/0', True)
    """
    return [
        to_problem(word_problem, id=f"tiny/{split}/{seed}/{index}")
        for index, word_problem in enumerate(generate_word_problems(n, split=split, seed=seed))
    ]
