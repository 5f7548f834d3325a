"""Slip: accuracy among the finished.

Expected message: accuracy is taken among those that were not cut off
"""

from __future__ import annotations


def compute_metrics(graded):
    n = len(graded)
    generations = [g.generation for g in graded]
    lengths = [len(g.token_ids) for g in generations]
    done = [g for g in graded if g.generation.finish_reason != "length"]
    return {
        "accuracy": sum(g.reward for g in done) / max(1, len(done)),
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.finish_reason == "length" for g in generations) / n,
        "avg_gen_len": sum(lengths) / n,
    }
