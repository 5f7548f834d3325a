"""Slip: token 0 hidden from the model.

Expected message: get_response_log_probs gives another result than the contract asks for
"""

from __future__ import annotations

import torch


def get_response_log_probs(model, input_ids, labels, return_token_entropy=False) -> dict[str, torch.Tensor]:
    attention = (input_ids != 0).long()
    log_p = torch.log_softmax(model(input_ids, attention_mask=attention).logits, dim=-1)
    picked = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    out = {"log_probs": picked}
    if return_token_entropy:
        out["token_entropy"] = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    return out
