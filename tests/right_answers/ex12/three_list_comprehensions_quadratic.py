"""Three list comprehensions, quadratic."""

from __future__ import annotations


def select_samples(graded, max_per_question: int | None = None) -> list:
    right = [g for g in graded if g.reward == 1.0]
    name = [(g.problem.id, g.generation.text.strip()) for g in right]
    fresh = [g for i, g in enumerate(right) if name[i] not in name[:i]]
    if max_per_question is None:
        return fresh
    ids = [g.problem.id for g in fresh]
    return [g for i, g in enumerate(fresh) if ids[:i].count(ids[i]) < max_per_question]
