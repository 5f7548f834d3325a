"""Slip: truncation by number of tokens.

Expected message: takes every generation of 8 tokens for a truncated one
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    return {
        "accuracy": sum(g.reward for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(length >= 8 for length in lengths) / n,
        "avg_gen_len": sum(lengths) / n,
    }
