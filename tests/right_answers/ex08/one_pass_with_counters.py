"""One pass with counters."""

from __future__ import annotations


def compute_metrics(graded) -> dict[str, float]:
    right = formatted = truncated = tokens = count = 0
    for record in graded:
        count += 1
        right += record.reward == 1.0
        formatted += record.format_reward == 1.0
        truncated += record.generation.finish_reason != "stop"
        tokens += len(record.generation.token_ids)
    names = ("accuracy", "format_accuracy", "trunc_rate", "avg_gen_len")
    return {name: value / count for name, value in zip(names, (right, formatted, truncated, tokens))}
