"""Arithmetic of the output head: products wider than their operands, blocks of a range, and fused GPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

HALF = (torch.bfloat16, torch.float16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that sums are kept in."""
    return torch.float32 if dtype in HALF else dtype


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute ``a @ b`` in float32 or wider, without rounding half-precision products."""
    if a.dtype not in HALF:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    result = a.new_zeros(a.shape[0], b.shape[1], dtype=torch.float32)
    for inner in blocks(a.shape[1]):  # a CPU has no such product: a block of the operands is widened at a time
        for columns in blocks(b.shape[1]):
            result[:, columns].addmm_(a[:, inner].float(), b[inner, columns].float())
    return result


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add ``a @ b`` to ``total`` in place, unrounded where ``total`` is float32."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        for rows in blocks(total.shape[0]):
            total[rows].addmm_(a[rows].to(total.dtype), b.to(total.dtype))


def blocks(n: int, size: int = 8192) -> list[slice]:
    """Cut ``range(n)`` into slices."""
    return [slice(start, start + size) for start in range(0, n, size)]


def compiled_on_gpu(function: Callable, like: torch.Tensor, *, overwrites: bool = False) -> Callable:
    """Compile a function of tensors into one kernel, if ``like`` is on a GPU.

    One that ``overwrites`` works in place on its first argument, which nobody reads afterwards.
    """
    return _compile(function, overwrites) if like.is_cuda else function


@lru_cache
def _compile(function: Callable, overwrites: bool) -> Callable:
    if not overwrites:
        return torch.compile(function, dynamic=True)
    # The copy is never made; without it the compiled code would write the first argument back.
    return torch.compile(lambda first, *rest: function(first.clone(), *rest), dynamic=True)
