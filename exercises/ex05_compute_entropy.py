"""ex05. How sure is the model? Entropy of the next-token distribution.

Topic: log-probabilities. Difficulty 2 of 5, about 15 minutes. Taught in notebook 04_first_sft_run.
Check it with `cs336-sft check ex05`; stuck? `cs336-sft hint ex05`.

compute_entropy(logits) -> tensor
    logits    [..., V], unnormalised; V is the vocabulary
    returns   [...], in nats: -sum_v p_v log p_v with p = softmax(logits) over the last dimension

Stable: logits of any finite size give the right value, and a logit of -inf (a forbidden token) has probability 0 and
adds 0. Differentiable, and the gradient is finite there too.

By hand, two rows:
    0 0 0 0             four equal probabilities: log 4 = 1.3863
    0 0 -inf -inf       two equal ones: log 2 = 0.6931
"""

from __future__ import annotations

import torch


def compute_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy over the last dimension, in nats."""
    raise NotImplementedError
