"""A function as one GPU kernel, where there is a GPU; as it is where there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch


def compiled_on_gpu(function: Callable, like: torch.Tensor, *, overwrites: bool = False) -> Callable:
    """One kernel instead of a pass over memory for each operation; compiled once, for every shape.

    Args:
        function: of tensors.
        like: a tensor on the device that it will compute on.
        overwrites: it works in place on its first argument, which nobody reads afterwards.

    >>> compiled_on_gpu(torch.exp, torch.zeros(1)) is torch.exp
    True
    """
    return _compile(function, overwrites) if like.is_cuda else function


@lru_cache
def _compile(function: Callable, overwrites: bool) -> Callable:
    if not overwrites:
        return torch.compile(function, dynamic=True)
    # The copy is never made; without it the compiled code would write the first argument back.
    return torch.compile(lambda first, *rest: function(first.clone(), *rest), dynamic=True)
