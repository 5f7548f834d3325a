"""One loop, a set and a counter."""

from __future__ import annotations


def select_samples(graded, max_per_question: int | None = None) -> list:
    seen, counts, kept = set(), {}, []
    for record in graded:
        if record.reward != 1.0:
            continue
        question = record.problem.id
        key = (question, record.generation.text.strip())
        if key in seen:
            continue
        seen.add(key)
        if max_per_question is not None and counts.get(question, 0) >= max_per_question:
            continue
        counts[question] = counts.get(question, 0) + 1
        kept.append(record)
    return kept
