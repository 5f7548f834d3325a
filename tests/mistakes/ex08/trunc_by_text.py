"""Slip: truncation by text length.

Expected message: truncation is told by the length of the text
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    return {
        "accuracy": sum(g.reward for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(len(g.text) >= 20 for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
