"""ex08, solved plainly. The task and its contract are in exercises/ex08_generation_metrics.py."""

from __future__ import annotations

from statistics import fmean


def compute_metrics(graded) -> dict[str, float]:
    """accuracy, format_accuracy, trunc_rate and avg_gen_len."""
    return {
        "accuracy": fmean(item.reward for item in graded),
        "format_accuracy": fmean(item.format_reward for item in graded),
        "trunc_rate": fmean(item.generation.finish_reason == "length" for item in graded),
        "avg_gen_len": fmean(len(item.generation.token_ids) for item in graded),
    }
