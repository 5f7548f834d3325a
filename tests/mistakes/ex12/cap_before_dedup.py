"""Slip: cap, then deduplicate.

Expected message: the cap counts duplicates too
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    groups = {}
    for item in graded:
        if item.reward:
            groups.setdefault(item.problem.id, []).append(item)
    kept = [item for group in groups.values() for item in group[:max_per_question]]
    seen, chosen = set(), []
    for item in graded:
        key = item.problem.id, item.generation.text.strip()
        if item in kept and key not in seen:
            seen.add(key)
            chosen.append(item)
    return chosen
