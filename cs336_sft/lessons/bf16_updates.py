"""The size of an optimizer step against the spacing of bfloat16 weights.

AdamW moves a weight by about the learning rate, whatever the gradient's size. If that is less than half of the distance
to the next bfloat16 number, rounding gives the old number back, in every step: the update is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cs336_sft.errors import DataError
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.step import make_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def bf16_spacing(values: torch.Tensor) -> torch.Tensor:
    """Compute the distance to the next bfloat16 number of larger magnitude.

    >>> bf16_spacing(torch.tensor([1.0, 0.02, -0.02])).tolist()
    [0.0078125, 0.0001220703125, 0.0001220703125]
    """
    _, exponent = torch.frexp(values.float().abs())  # values = mantissa * 2**exponent, mantissa in [0.5, 1)
    # 2**-133 is the smallest bfloat16 above 0.
    return torch.ldexp(torch.ones_like(values, dtype=torch.float32), (exponent - 8).clamp(min=-133))


def fraction_moved(model: PreTrainedModel, learning_rate: float, dtype: torch.dtype) -> float:
    """Compute the fraction of trained weights that one AdamW step changes.

    Weights, gradients and averages have the type `dtype`. The step is made on copies.
    Raises DataError: no parameter has a gradient.
    """
    copies = torch.nn.ParameterList()
    for parameter in model.parameters():
        if parameter.grad is not None:
            copy = torch.nn.Parameter(parameter.detach().to(dtype, copy=True))
            copy.grad = parameter.grad.to(dtype, copy=True)
            copies.append(copy)
    if len(copies) == 0:
        raise DataError("no parameter has a gradient", "call backward() on a loss first")
    before = [copy.detach().clone() for copy in copies]
    make_optimizer(copies, SFTConfig(learning_rate=learning_rate)).step()
    changed = sum(int((old != new).sum()) for old, new in zip(before, copies, strict=True))
    return changed / sum(old.numel() for old in before)
