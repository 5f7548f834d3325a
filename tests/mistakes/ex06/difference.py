"""Slip: two large numbers apart.

Expected message: the logit minus logsumexp
"""

from __future__ import annotations

import torch


def get_response_log_probs(model, input_ids, labels, return_token_entropy=False) -> dict[str, torch.Tensor]:
    logits = model(input_ids).logits
    picked = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)
    log_p = torch.log_softmax(logits, dim=-1)
    out = {"log_probs": picked}
    if return_token_entropy:
        out["token_entropy"] = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    return out
