"""ex12, solved plainly. The task and its contract are in exercises/ex12_expert_iteration_select.py."""

from __future__ import annotations

from collections import Counter


def select_samples(graded, max_per_question: int | None = None) -> list:
    """The samples that a round of expert iteration trains on."""
    selected, seen, taken = [], set(), Counter()
    for item in graded:
        question = item.problem.id
        key = (question, item.generation.text.strip())
        full = max_per_question is not None and taken[question] >= max_per_question
        if item.reward == 0 or key in seen or full:
            continue
        seen.add(key)
        taken[question] += 1
        selected.append(item)
    return selected
