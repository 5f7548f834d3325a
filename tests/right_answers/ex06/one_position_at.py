"""One position at a time under torch.utils.checkpoint."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint


def get_response_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, return_token_entropy: bool = False
) -> dict[str, torch.Tensor]:
    logits = model(input_ids).logits

    def pick(column, target):
        return -torch.nn.functional.nll_loss(torch.log_softmax(column, dim=-1), target, reduction="none")

    columns = [checkpoint(pick, logits[:, t], labels[:, t], use_reentrant=False) for t in range(labels.shape[1])]
    result = {"log_probs": torch.stack(columns, dim=1)}
    if return_token_entropy:
        p = torch.softmax(logits.detach(), dim=-1)
        result["token_entropy"] = torch.special.entr(p).sum(dim=-1)
    return result
