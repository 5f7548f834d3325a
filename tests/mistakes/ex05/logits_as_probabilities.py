"""Slip: the softmax forgotten.

Expected message: takes the logits for probabilities
"""

from __future__ import annotations


def compute_entropy(logits):
    return -(logits * logits.log()).sum(dim=-1)
