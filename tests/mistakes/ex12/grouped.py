"""Slip: grouped by question.

Expected message: returns the samples grouped by question
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.reward != 1.0:
            continue
        group = groups.setdefault(item.problem.id, {})
        group.setdefault(item.generation.text.strip(), index)
    chosen = []
    for group in groups.values():
        chosen += list(group.values())[:max_per_question]
    return [graded[i] for i in chosen]
