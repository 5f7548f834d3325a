"""Slip: texts not stripped.

Expected message: takes texts that differ in blanks at their ends
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.reward != 1.0:
            continue
        group = groups.setdefault(item.problem.id, {})
        group.setdefault(item.generation.text, index)
    chosen = []
    for group in groups.values():
        chosen += list(group.values())[:max_per_question]
    return [graded[i] for i in sorted(chosen)]
