"""Slip: a reentrant checkpoint that does not see the head: no graph under frozen hidden states.

Expected message: one of the two is frozen, not both
"""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint


def chunked_log_probs(hidden, head_weight, labels, chunk_size):
    def f(h, y):
        logp = torch.log_softmax(h.float() @ head_weight.float().T, dim=-1)
        return logp.gather(-1, y[:, None])[:, 0], -(logp.exp() * logp).sum(-1)

    lps, ents = [], []
    for h, y in zip(hidden.split(chunk_size), labels.split(chunk_size), strict=True):
        lp, ent = checkpoint(f, h, y, use_reentrant=True)
        lps.append(lp)
        ents.append(ent.detach())
    return {"log_probs": torch.cat(lps), "token_entropy": torch.cat(ents)}
