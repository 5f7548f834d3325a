"""Slip: length of right answers.

Expected message: avg_gen_len averages over right answers only
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    [len(g.token_ids) for g in generations]
    right = [len(g.generation.token_ids) for g in graded if g.reward]
    return {
        "accuracy": sum(g.reward for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(right) / max(1, len(right)),
    }
