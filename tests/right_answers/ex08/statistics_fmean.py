"""Statistics.fmean."""

from __future__ import annotations

from statistics import fmean


def compute_metrics(graded) -> dict[str, float]:
    return dict(
        accuracy=fmean(g.reward for g in graded),
        format_accuracy=fmean(g.format_reward for g in graded),
        trunc_rate=fmean(1.0 if g.generation.finish_reason == "length" else 0.0 for g in graded),
        avg_gen_len=fmean(len(g.generation.token_ids) for g in graded),
    )
