"""Slip: duplicates over all questions.

Expected message: drops a text that another question has too
"""

from __future__ import annotations


def select_samples(graded, max_per_question=None):
    texts, counts, chosen = set(), {}, []
    for item in graded:
        text, question = item.generation.text.strip(), item.problem.id
        if item.reward < 1 or text in texts:
            continue
        if max_per_question is not None and counts.get(question, 0) == max_per_question:
            continue
        texts.add(text)
        counts[question] = counts.get(question, 0) + 1
        chosen.append(item)
    return chosen
