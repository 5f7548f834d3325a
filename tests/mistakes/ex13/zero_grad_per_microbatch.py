"""Slip: gradients are cleared before each microbatch.

Expected message: gradients are cleared before each microbatch
"""

from __future__ import annotations

import torch


def make_batch(examples, pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, labels and mask, each [B, T]."""
    width = max(len(example) for example in examples)
    rows, masks = [], []
    for example in examples:
        fill = width - len(example)
        rows.append([*example.prompt_ids, *example.response_ids, *[pad_id] * fill])
        masks.append([False] * len(example.prompt_ids) + [True] * len(example.response_ids) + [False] * fill)
    ids, mask = torch.tensor(rows), torch.tensor(masks)
    labels = ids[:, 1:]
    return ids[:, :-1], labels, mask[:, 1:]  # shifted as the labels are; end-of-text stays a target


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
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(epochs):
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            parts = [
                make_batch(batch[first : first + microbatch_size], pad_id)
                for first in range(0, len(batch), microbatch_size)
            ]
            total = sum(mask.sum() for _, _, mask in parts)
            step_loss = 0.0
            for input_ids, labels, mask in parts:
                log_p = torch.log_softmax(model(input_ids).logits, dim=-1)  # [B, T, V]
                log_probs = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)  # [B, T]
                loss = -(log_probs * mask).sum() / total
                optimizer.zero_grad()
                loss.backward()
                step_loss += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(step_loss)
    return losses
