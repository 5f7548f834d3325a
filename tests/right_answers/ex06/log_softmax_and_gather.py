"""Log_softmax and gather."""

from __future__ import annotations

import torch


def get_response_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, return_token_entropy: bool = False
) -> dict[str, torch.Tensor]:
    logits = model(input_ids).logits
    log_p = torch.log_softmax(logits, dim=-1)
    result = {"log_probs": log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)}
    if return_token_entropy:
        result["token_entropy"] = -(log_p.exp() * log_p).sum(dim=-1)
    return result
