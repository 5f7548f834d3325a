"""Groups by question, then puts the indices back in order."""

from __future__ import annotations

from collections import defaultdict


def select_samples(graded, max_per_question: int | None = None) -> list:
    groups = defaultdict(dict)
    for index, g in enumerate(graded):
        if g.reward > 0:
            groups[g.problem.id].setdefault(g.generation.text.strip(), index)
    chosen = []
    for texts in groups.values():
        chosen.extend(list(texts.values())[:max_per_question])
    return [graded[index] for index in sorted(chosen)]
