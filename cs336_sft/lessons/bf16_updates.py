"""What an optimizer step is worth if the weights are kept in bfloat16.

A bfloat16 number has 8 significant bits. Between ``2**e`` and ``2**(e + 1)`` there are 128 of them, at a distance of
``2**(e - 7)``: a weight of 0.02 has neighbours 0.00012 away. AdamW moves a weight by about the learning rate, whatever
the gradient's size. If that is less than half of the distance, rounding gives the old number back, in this step and in
every later one: the update isn't late, it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from cs336_sft.errors import DataError
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.step import make_optimizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def bf16_spacing(values: torch.Tensor) -> torch.Tensor:
    """Distance from each value to the next bfloat16 number of larger magnitude; float32, same shape.

    >>> bf16_spacing(torch.tensor([1.0, 0.02, -0.02])).tolist()
    [0.0078125, 0.0001220703125, 0.0001220703125]
    """
    _, exponent = torch.frexp(values.float().abs())  # values = mantissa * 2**exponent, mantissa in [0.5, 1)
    # 2**-133 is the smallest bfloat16 above 0.
    return torch.ldexp(torch.ones_like(values, dtype=torch.float32), (exponent - 8).clamp(min=-133))


def share_within_reach(parameters: Iterable[torch.Tensor], size: float) -> float:
    """Share of the weights that an update of this size would change: half of their spacing is smaller than it.

    An estimate from the weights alone. (Just above a power of two the step down is half as wide; that is left out.)

    >>> share_within_reach([torch.tensor([0.02, 0.5])], size=1e-4)
    0.5
    """
    tensors = [parameter.detach() for parameter in parameters]
    total = sum(tensor.numel() for tensor in tensors)
    if total == 0:
        raise DataError("there are no weights", "give a model's parameters")
    return sum(int((bf16_spacing(tensor) / 2 < size).sum()) for tensor in tensors) / total


def share_moved(model: PreTrainedModel, learning_rate: float, dtype: torch.dtype) -> float:
    """Share of the trained weights that one AdamW step changes, if weights, gradient and averages have this type.

    The step is made on copies: the model and its gradients stay as they are.

    Args:
        model: with gradients, after ``backward()``.
        learning_rate: of the step, the first of a run.
        dtype: ``torch.bfloat16``, or ``torch.float32``.

    Raises:
        DataError: no parameter has a gradient.

    >>> layer = torch.nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[0.5, 0.001]]))
    >>> layer(torch.ones(1, 2)).sum().backward()
    >>> share_moved(layer, 1e-5, torch.float32), share_moved(layer, 1e-5, torch.bfloat16)
    (1.0, 0.5)
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
    return share_changed(before, copies)


def share_changed(before: Iterable[torch.Tensor], after: Iterable[torch.Tensor]) -> float:
    """Share of the numbers that differ between two lists of tensors.

    >>> share_changed([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 2.5])])
    0.5
    """
    changed = total = 0
    for old, new in zip(before, after, strict=True):
        changed += int((old != new).sum())
        total += old.numel()
    if total == 0:
        raise DataError("there is nothing to compare", "give at least one tensor with numbers")
    return changed / total
