"""No optimizer object: gradients added up by autograd.grad, clipped and applied by hand."""

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
    parameters = [p for p in model.parameters() if p.requires_grad]
    losses = []
    for step in range(epochs * -(-len(examples) // batch_size)):
        start = step % -(-len(examples) // batch_size) * batch_size
        batch = examples[start : start + batch_size]
        gradient, total_nll, count = [torch.zeros_like(p) for p in parameters], 0.0, 0
        for first in range(0, len(batch), microbatch_size):
            input_ids, labels, mask = make_batch(batch[first : first + microbatch_size], pad_id)
            logits = model(input_ids).logits
            chosen = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
            nll = -chosen[mask].sum()
            for g, new in zip(gradient, torch.autograd.grad(nll, parameters)):
                g += new
            total_nll += nll.item()
            count += int(mask.sum())
        norm = torch.sqrt(sum((g / count).pow(2).sum() for g in gradient))
        scale = min(1.0, 1.0 / (norm.item() + 1e-6)) / count
        with torch.no_grad():
            for p, g in zip(parameters, gradient):
                p -= learning_rate * scale * g
        losses.append(total_nll / count)
    return losses
