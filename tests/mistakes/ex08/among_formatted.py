"""Slip: accuracy among the formatted.

Expected message: accuracy is taken among the formatted ones only
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    return {
        "accuracy": sum(g.reward for g in graded) / max(1, sum(g.format_reward for g in graded)),
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
