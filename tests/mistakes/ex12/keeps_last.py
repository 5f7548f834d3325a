"""Slip: the last duplicate kept.

Expected message: keeps the last of several
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.reward == 1.0:
            group = groups.setdefault(item.problem.id, {})
            group.pop(item.generation.text.strip(), None)
            group[item.generation.text.strip()] = index
    chosen = []
    for group in groups.values():
        indices = list(group.values())
        chosen += indices if max_per_question is None else indices[-max_per_question:]
    return [graded[i] for i in sorted(chosen)]
