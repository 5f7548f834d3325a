"""Helpers, microbatch loss under torch.utils.checkpoint, scaled after accumulation."""

from __future__ import annotations

import torch
from torch.utils.checkpoint import checkpoint


def make_batch(examples, pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, labels and mask, each [B, T]."""
    width = max(len(example) for example in examples)
    rows, masks = [], []
    for example in examples:
        fill = width - len(example)
        rows.append([*example.prompt_ids, *example.response_ids, *[pad_id] * fill])
        masks.append([False] * len(example.prompt_ids) + [True] * len(example.response_ids) + [False] * fill)
    ids, mask = torch.tensor(rows), torch.tensor(masks)
    return ids[:, :-1], ids[:, 1:], mask[:, 1:]


def _nll(model, input_ids, labels, mask):
    log_probs = torch.nn.functional.log_softmax(model(input_ids).logits, dim=-1)
    return -log_probs[torch.nonzero(mask, as_tuple=True) + (labels[mask],)].sum()


def _cut(items, size):
    return [items[i : i + size] for i in range(0, len(items), size)]


def train(
    model: torch.nn.Module,
    examples,
    pad_id: int,
    *,
    epochs: int,
    batch_size: int,
    microbatch_size: int,
    learning_rate: float,
) -> list[float]:
    """Fine-tune; one loss a step."""
    sgd = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses = []
    for batch in _cut(list(examples), batch_size) * epochs:
        sgd.zero_grad(set_to_none=True)
        total, count = 0.0, 0
        for part in _cut(batch, microbatch_size):
            input_ids, labels, mask = make_batch(part, pad_id)
            loss = checkpoint(_nll, model, input_ids, labels, mask, use_reentrant=False)
            loss.backward()
            total, count = total + loss.item(), count + int(mask.sum())
        for p in model.parameters():
            if p.grad is not None:
                p.grad.div_(count)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        sgd.step()
        losses.append(total / count)
    return losses
