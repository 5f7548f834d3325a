"""Slip: id and text joined to one key.

Expected message: joins id and text
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    seen = set()
    out, count = [], {}
    cap = max_per_question
    for r in graded:
        key = str(r.problem.id) + r.generation.text.strip()
        if not r.reward or key in seen:
            continue
        seen.add(key)
        if cap is not None and count.get(r.problem.id, 0) >= cap:
            continue
        count[r.problem.id] = count.get(r.problem.id, 0) + 1
        out.append(r)
    return out
