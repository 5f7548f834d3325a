"""Slip: cap, then filter.

Expected message: the cap counts wrong samples too
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    counts, capped = {}, []
    for item in graded:
        counts[item.problem.id] = counts.get(item.problem.id, 0) + 1
        if max_per_question is None or counts[item.problem.id] <= max_per_question:
            capped.append(item)
    seen, chosen = set(), []
    for item in capped:
        key = item.problem.id, item.generation.text.strip()
        if item.reward and key not in seen:
            seen.add(key)
            chosen.append(item)
    return chosen
