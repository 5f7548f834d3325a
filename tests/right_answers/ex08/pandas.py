"""Pandas."""

from __future__ import annotations

import pandas as pd


def compute_metrics(graded) -> dict[str, float]:
    frame = pd.DataFrame(
        [
            (g.reward, g.format_reward, g.generation.finish_reason == "length", len(g.generation.token_ids))
            for g in graded
        ],
        columns=["accuracy", "format_accuracy", "trunc_rate", "avg_gen_len"],
    )
    return {name: float(value) for name, value in frame.astype(float).mean().items()}
