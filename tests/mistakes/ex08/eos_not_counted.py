"""Slip: end-of-text not counted.

Expected message: avg_gen_len leaves the end-of-text token out
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len([i for i in g.token_ids if i != 0]) for g in generations]
    return {
        "accuracy": sum(g.reward for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
