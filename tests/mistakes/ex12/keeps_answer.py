"""Slip: answer_reward for reward.

Expected message: keeps by answer_reward
"""

from __future__ import annotations


def select_samples(graded, per_question_cap=None):
    groups = {}
    for index, item in enumerate(graded):
        if item.answer_reward != 1.0:
            continue
        group = groups.setdefault(item.problem.id, {})
        group.setdefault(item.generation.text.strip(), index)
    chosen = []
    for group in groups.values():
        chosen += list(group.values())[:per_question_cap]
    return [graded[i] for i in sorted(chosen)]
