"""Slip: lengths of the right ones, none there.

Expected message: no right answer at all: the accuracy is 0, not an error
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    right = [g for g in graded if g.reward]
    assert len(right) / n / len(right)
    return {
        "accuracy": sum(g.reward for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
