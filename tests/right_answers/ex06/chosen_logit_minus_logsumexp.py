"""Chosen logit minus logsumexp; row by row."""

from __future__ import annotations

import torch


def get_response_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, return_token_entropy: bool = False
) -> dict[str, torch.Tensor]:
    logits = model(input_ids).logits
    log_probs, entropies = [], []
    for row, targets in zip(logits, labels):
        row = row - row.detach().max(dim=-1, keepdim=True).values
        log_z = torch.logsumexp(row, dim=-1)
        log_probs.append(row[torch.arange(len(targets)), targets] - log_z)
        if return_token_entropy:
            log_p = row.detach() - log_z.detach()[:, None]
            entropies.append(-torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=-1))
    out = {"log_probs": torch.stack(log_probs)}
    if return_token_entropy:
        out["token_entropy"] = torch.stack(entropies)
    return out
