"""Slip: the sign of the entropy.

Expected message: the sign of token_entropy is flipped
"""

from __future__ import annotations

import torch


def get_response_log_probs(model, input_ids, labels, return_token_entropy=False):
    logits = model(input_ids).logits
    log_p = torch.log_softmax(logits, dim=-1)
    log_probs = torch.gather(log_p, 2, labels[..., None])[..., 0]
    out = {"log_probs": log_probs}
    if return_token_entropy:
        out["token_entropy"] = (log_p.exp() * log_p).sum(-1)
    return out
