"""Slip: the last duplicate kept.

Expected message: keeps the last of several
"""

from __future__ import annotations


def select_samples(graded, per_question_cap=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.reward == 1.0:
            group = groups.setdefault(item.problem.id, {})
            group.pop(item.generation.text.strip(), None)
            group[item.generation.text.strip()] = index
    chosen = []
    for group in groups.values():
        indices = list(group.values())
        chosen += indices if per_question_cap is None else indices[-per_question_cap:]
    return [graded[i] for i in sorted(chosen)]
