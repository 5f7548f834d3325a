"""The stub mended, line by line."""

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
    return ids[:, :-1], ids[:, 1:], mask[:, 1:]


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
            targets = sum(len(example.response_ids) for example in batch)
            step_loss = 0.0
            optimizer.zero_grad()
            for first in range(0, len(batch), microbatch_size):
                input_ids, labels, mask = make_batch(batch[first : first + microbatch_size], pad_id)
                log_p = torch.log_softmax(model(input_ids).logits, dim=-1)  # [B, T, V]
                log_probs = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)  # [B, T]
                loss = -(log_probs * mask).sum() / targets
                loss.backward()
                step_loss += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(step_loss)
    return losses
