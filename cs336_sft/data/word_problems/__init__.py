"""A seeded generator of word problems in GSM8K's style, right by construction."""

from __future__ import annotations

from cs336_sft.data.word_problems.problem import Quantity, Step, WordProblem, operation_graph, to_problem
from cs336_sft.data.word_problems.splits import (
    HELDOUT_TEMPLATE_NAMES,
    SPLITS,
    TEMPLATE_NAMES,
    generate_problems,
    generate_word_problems,
    iterate_word_problems,
    split_of,
)

__all__ = [
    "HELDOUT_TEMPLATE_NAMES",
    "SPLITS",
    "TEMPLATE_NAMES",
    "Quantity",
    "Step",
    "WordProblem",
    "generate_problems",
    "generate_word_problems",
    "iterate_word_problems",
    "operation_graph",
    "split_of",
    "to_problem",
]
