"""F.cross_entropy with reduction='none'."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def get_response_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, return_token_entropy: bool = False
) -> dict[str, torch.Tensor]:
    logits = model(input_ids).logits
    vocabulary = logits.size(-1)
    nll = F.cross_entropy(logits.reshape(-1, vocabulary), labels.reshape(-1), reduction="none")
    out = {"log_probs": -nll.reshape(labels.shape)}
    if return_token_entropy:
        with torch.no_grad():
            log_p = F.log_softmax(logits, dim=-1)
            out["token_entropy"] = -(log_p.exp() * log_p).sum(-1)
    return out
