"""ex03. Sum what the mask keeps, divide by a constant.

Topic: loss. Difficulty 1 of 5, about 10 minutes. Taught in notebook 02_masked_loss.
Check it with `cs336-sft check ex03`; stuck? `cs336-sft hint ex03`.

masked_normalize(tensor, mask, normalize_constant, dim=None) -> tensor
    tensor              any shape, floating point
    mask                the same shape; bool, or numbers: 0 means masked, any other counted (once)
    normalize_constant  the divisor, the only one
    dim                 the dimension to sum (negative ones count from the end); None sums over all of them
    returns             tensor's shape without dim, in tensor's precision; a scalar for None

What is masked never reaches the result, not even nan or inf. The result is differentiable; the arguments stay as
they are.

By hand, constant 2:
    tensor  1 2 3 4     mask  . x x .     dim=1: [(2 + 3) / 2, 8 / 2] = [2.5, 4]
            5 6 7 8           . . . x     dim=0: [0, 1, 1.5, 4]         dim=None: (2 + 3 + 8) / 2 = 6.5
"""

from __future__ import annotations

import torch


def masked_normalize(
    tensor: torch.Tensor, mask: torch.Tensor, normalize_constant: float, dim: int | None = None
) -> torch.Tensor:
    """Sum of the unmasked elements along dim, divided by a constant."""
    raise NotImplementedError
