"""Slip: percent.

Expected message: rates are in percent
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    return {
        "accuracy": 100 * sum(g.reward for g in graded) / n,
        "format_accuracy": 100 * sum(g.format_reward for g in graded) / n,
        "trunc_rate": 100 * sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
