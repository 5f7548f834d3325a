"""Slip: logits kept between calls.

Expected message: the weights have changed
"""

from __future__ import annotations

import torch

_CACHE = {}


def get_response_log_probs(model, input_ids, labels, return_token_entropy=False) -> dict[str, torch.Tensor]:
    key = (id(model), tuple(input_ids.flatten().tolist()), tuple(input_ids.shape))
    if key not in _CACHE:
        _CACHE[key] = model(input_ids).logits
    log_p = torch.log_softmax(_CACHE[key], dim=-1)
    picked = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    out = {"log_probs": picked}
    if return_token_entropy:
        out["token_entropy"] = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    return out
