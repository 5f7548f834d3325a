"""ex06, solved plainly. The task and its contract are in exercises/ex06_get_response_log_probs.py."""

from __future__ import annotations

import torch


def get_response_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, return_token_entropy: bool = False
) -> dict[str, torch.Tensor]:
    """Log-probabilities of the labels, and entropies if asked for."""
    log_p = torch.log_softmax(model(input_ids).logits, dim=-1)  # [B, T, V]
    result = {"log_probs": log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)}  # [B, T]
    if return_token_entropy:
        result["token_entropy"] = -(log_p.exp() * log_p).sum(dim=-1).detach()  # [B, T]
    return result
