"""Slip: wrong samples taken out of the caller's list.

Expected message: select_samples changes its argument number 1 in place
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    for r in list(graded):
        if not r.reward:
            graded.remove(r)
    seen = set()
    out, count = [], {}
    cap = max_per_question
    for r in graded:
        key = (r.problem.id, r.generation.text.strip())
        if not r.reward or key in seen:
            continue
        seen.add(key)
        if cap is not None and count.get(r.problem.id, 0) >= cap:
            continue
        count[r.problem.id] = count.get(r.problem.id, 0) + 1
        out.append(r)
    return out
