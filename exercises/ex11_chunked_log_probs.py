"""ex11. Log-probabilities and entropies without the whole of the logits.

Topic: log-probabilities. Difficulty 4 of 5, about 45 minutes. Taught in notebook 10_out_of_memory.
Check it with `cs336-sft check ex11`; stuck? `cs336-sft hint ex11`.

chunked_log_probs(hidden, head_weight, labels, chunk_size) -> dict
    hidden        [N, H], the last hidden states of N tokens (batch and time flattened), float32 or bfloat16
    head_weight   [V, H], the output head: logits = hidden @ head_weight.T
    labels        int64 [N]
    chunk_size    tokens to work on at once, at least 1; it need not divide N
    returns       {"log_probs": [N], "token_entropy": [N]}, float32, in nats

log_probs is differentiable with respect to hidden and head_weight; token_entropy is only logged, without a graph. The
logits are computed in float32 also from bfloat16 inputs. No tensor of [N, V] elements may exist, and the chunks' logits
may not be kept for the backward either: there they are computed once more.

(With V = 151,936, 12 sequences of 1,023 tokens make logits of 7.46 GB in float32; a softmax and a log-softmax beside
them are what ran out of memory in the notes that this course is built from.)

By hand, H = 1, V = 2, hidden [[0], [log 3]], head_weight [[0], [1]], labels [1, 1], any chunk_size:
    logits  0 0         log_probs      -0.6931  -0.2877
            0 log 3     token_entropy   0.6931   0.5623
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint  # noqa: F401 - for you


def chunked_log_probs(
    hidden: torch.Tensor, head_weight: torch.Tensor, labels: torch.Tensor, chunk_size: int
) -> dict[str, torch.Tensor]:
    """Log-probabilities of the labels and entropies, chunk by chunk."""
    raise NotImplementedError
