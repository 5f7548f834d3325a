"""Labels of -100 and F.cross_entropy with ignore_index, reduction='sum'."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def make_batch(examples, pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, labels and mask, each [B, T]."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(
        [torch.tensor([*e.prompt_ids, *e.response_ids]) for e in examples], batch_first=True, padding_value=pad_id
    )
    mask = pad(
        [torch.tensor([0] * len(e.prompt_ids) + [1] * len(e.response_ids)) for e in examples], batch_first=True
    ).bool()
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
            pieces = [make_batch(batch[i : i + microbatch_size], pad_id) for i in range(0, len(batch), microbatch_size)]
            total = sum(int(mask.sum()) for _, _, mask in pieces)
            model.zero_grad(set_to_none=True)
            nll = 0.0
            for input_ids, labels, mask in pieces:
                targets = labels.masked_fill(~mask, -100)
                logits = model(input_ids).logits
                loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
                (loss / total).backward()
                nll += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            losses.append(nll / total)
    return losses
