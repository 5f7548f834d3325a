"""Slip: no deduplication.

Expected message: keeps duplicates
"""

from __future__ import annotations


def select_samples(graded, per_question_cap=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.reward != 1.0:
            continue
        group = groups.setdefault(item.problem.id, {})
        group.setdefault(index, index)
    chosen = []
    for group in groups.values():
        chosen += list(group.values())[:per_question_cap]
    return [graded[i] for i in sorted(chosen)]
