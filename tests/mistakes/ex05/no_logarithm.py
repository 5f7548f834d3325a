"""Slip: p times logit.

Expected message: the logarithm is missing
"""

from __future__ import annotations


def compute_entropy(logits):
    p = logits.softmax(dim=-1)
    return -(p * logits).sum(dim=-1)
