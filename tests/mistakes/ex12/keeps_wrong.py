"""Slip: no filter.

Expected message: keeps wrong samples
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    groups = {}
    for index, item in enumerate(graded):
        group = groups.setdefault(item.problem.id, {})
        group.setdefault(item.generation.text.strip(), index)
    chosen = []
    for group in groups.values():
        chosen += list(group.values())[:max_per_question]
    return [graded[i] for i in sorted(chosen)]
