"""Pandas: drop_duplicates and cumcount."""

from __future__ import annotations

import pandas as pd


def select_samples(graded, max_per_question: int | None = None) -> list:
    rows = [(i, g.problem.id, g.generation.text.strip()) for i, g in enumerate(graded) if g.reward == 1.0]
    frame = pd.DataFrame(rows, columns=["index", "question", "text"]).drop_duplicates(
        ["question", "text"], keep="first"
    )
    if max_per_question is not None:
        frame = frame[frame.groupby("question").cumcount() < max_per_question]
    return [graded[int(i)] for i in frame["index"]]
