"""Slip: the entropy as a difference.

Expected message: token_entropy is the difference of two large numbers
"""

from __future__ import annotations

import torch


def get_response_log_probs(model, input_ids, labels, return_token_entropy=False) -> dict[str, torch.Tensor]:
    logits = model(input_ids).logits
    lse = logits.logsumexp(-1)
    out = {"log_probs": torch.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0]}
    if return_token_entropy:
        out["token_entropy"] = lse - (logits.softmax(-1) * logits).sum(-1)
    return out
