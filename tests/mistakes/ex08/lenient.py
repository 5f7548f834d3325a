"""Slip: the lenient accuracy.

Expected message: accuracy averages lenient
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    return {
        "accuracy": sum(g.lenient for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
