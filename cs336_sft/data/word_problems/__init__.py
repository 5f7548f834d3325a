"""A seeded generator of word problems in GSM8K's style, right by construction.

Read `draft` first, then a file of templates such as `money`, then `splits`.
"""

from cs336_sft.data.word_problems.draft import WordProblem
from cs336_sft.data.word_problems.splits import SPLITS, generate_problems, generate_word_problems

__all__ = ["SPLITS", "WordProblem", "generate_problems", "generate_word_problems"]
