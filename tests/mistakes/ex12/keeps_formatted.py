"""Slip: format_reward for reward.

Expected message: keeps by format_reward
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.format_reward != 1.0:
            continue
        group = groups.setdefault(item.problem.id, {})
        group.setdefault(item.generation.text.strip(), index)
    chosen = []
    for group in groups.values():
        chosen += list(group.values())[:max_per_question]
    return [graded[i] for i in sorted(chosen)]
