"""A seeded generator of word problems in GSM8K's style, right by construction.

Read `problem` first (what a problem is), then a file of templates such as `money`, written with the tools of `draft`.
`splits` turns the templates into train, validation and test problems.
"""

from cs336_sft.data.word_problems.problem import Step, WordProblem
from cs336_sft.data.word_problems.splits import SPLITS, generate_problems, generate_word_problems

__all__ = ["SPLITS", "Step", "WordProblem", "generate_problems", "generate_word_problems"]
