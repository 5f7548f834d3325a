"""Autograd.Function that computes the logits once more in backward."""

from __future__ import annotations

import torch


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, size):
        ctx.save_for_backward(hidden, weight, labels)
        ctx.size = size
        w = weight.float()
        log_probs = torch.empty(len(labels), dtype=torch.float32)
        entropy = torch.empty(len(labels), dtype=torch.float32)
        for i in range(0, len(labels), size):
            log_p = (hidden[i : i + size].float() @ w.T).log_softmax(-1)
            log_probs[i : i + size] = log_p.gather(1, labels[i : i + size, None])[:, 0]
            entropy[i : i + size] = -(log_p.exp() * log_p).sum(-1)
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx, grad, _):
        hidden, weight, labels = ctx.saved_tensors
        w = weight.float()
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(w)
        for i in range(0, len(labels), ctx.size):
            h = hidden[i : i + ctx.size].float()
            d = -(h @ w.T).softmax(-1)
            rows = torch.arange(len(d))
            d[rows, labels[i : i + ctx.size]] += 1.0
            d *= grad[i : i + ctx.size, None]
            grad_hidden[i : i + ctx.size] = (d @ w).to(hidden.dtype)
            grad_weight += d.T @ h
        return grad_hidden, grad_weight.to(weight.dtype), None, None


def chunked_log_probs(
    hidden: torch.Tensor, head_weight: torch.Tensor, labels: torch.Tensor, chunk_size: int
) -> dict[str, torch.Tensor]:
    log_probs, entropy = _ChunkedHead.apply(hidden, head_weight, labels, chunk_size)
    return {"log_probs": log_probs, "token_entropy": entropy}
