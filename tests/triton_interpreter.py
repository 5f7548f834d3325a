"""The Triton kernel's numbers on a CPU: run by test_triton_head.py with TRITON_INTERPRET=1, which must come first.

In float32, as the interpreter multiplies bfloat16 operands as if they were integers.
"""

from __future__ import annotations

import torch

from cs336_sft.model import triton_head
from cs336_sft.model.triton_head import SMALL, Tiles

FEW = Tiles(rows=16, columns=32, depth=32, stages=1, warps=1)


def check(rows: int, vocabulary: int, width: int, scale: float, std: float, tiles: Tiles) -> None:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * std
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    labels[0], labels[-1] = 0, vocabulary - 1
    weights = torch.rand(rows, generator=generator)

    exact = [tensor.double().requires_grad_() for tensor in (hidden, weight)]
    log_softmax = (scale * exact[0] @ exact[1].T).log_softmax(dim=-1)
    expected = log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
    of_hidden, of_weight = torch.autograd.grad((weights * expected).sum(), exact)

    settings = {"scale": scale, "tiles": tiles}
    dtypes = (torch.float32, torch.float32)
    once = triton_head.one_pass(hidden, weight, labels, weights, dtypes=dtypes, chunk=24, **settings)
    values_only = triton_head.one_pass(hidden, weight, labels, None, dtypes=(None, None), **settings)
    assert values_only[2:] == (None, None)
    for found, wanted in (
        (values_only[0], expected),
        (values_only[1], entropy),
        (once[0], expected),
        (once[1], entropy),
        (-once[2], of_hidden),  # of the loss, which is minus the sum
        (-once[3], of_weight),
    ):
        assert found.shape == wanted.shape
        assert (found - wanted).norm() <= 1e-5 * wanted.norm(), (rows, vocabulary, scale, std, tiles)
    unlikely = triton_head.exp_logits(
        hidden, weight, triton_head.label_logits(hidden, weight, labels, scale), labels, None, **settings
    )
    assert bool((unlikely[0] > 0).any()) == (std > 1)  # so that both kinds of label were looked at


if __name__ == "__main__":
    check(1, 32, 32, 1.0, 0.1, FEW)
    check(40, 100, 64, 0.3, 0.3, FEW)
    check(40, 100, 64, 1.0, 3.0, FEW)
    check(130, 300, 64, 1.0, 0.1, SMALL)
    print("right")
