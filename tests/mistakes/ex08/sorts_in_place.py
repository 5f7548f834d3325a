"""Slip: sorts the caller's list.

Expected message: compute_metrics changes its argument number 1 in place
"""

from __future__ import annotations


def compute_metrics(graded):
    graded.sort(key=lambda g: len(g.generation.token_ids))
    n = len(graded)
    return {
        "accuracy": sum(g.reward for g in graded) / n,
        "format_accuracy": sum(g.format_reward for g in graded) / n,
        "trunc_rate": sum(g.generation.finish_reason == "length" for g in graded) / n,
        "avg_gen_len": sum(len(g.generation.token_ids) for g in graded) / n,
    }
