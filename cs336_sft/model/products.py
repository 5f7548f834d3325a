"""Matrix products whose result is wider than their operands: bfloat16 in, float32 out, nothing rounded on the way."""

from __future__ import annotations

import torch

HALF = (torch.bfloat16, torch.float16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in.

    >>> wide(torch.bfloat16), wide(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in HALF else dtype


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b``, float32 or wider.

    >>> product(torch.ones(1, 300, dtype=torch.bfloat16), torch.ones(300, 1, dtype=torch.bfloat16))  # bfloat16: 300.
    tensor([[300.]])
    """
    if a.dtype not in HALF:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    # A CPU has no such product: a block of the operands is widened at a time.
    result = a.new_zeros(a.shape[0], b.shape[1], dtype=torch.float32)
    for inner in blocks(a.shape[1]):
        for columns in blocks(b.shape[1]):
            result[:, columns].addmm_(a[:, inner].float(), b[inner, columns].float())
    return result


def add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """``total += a @ b``; where ``total`` is float32, the products of half-precision operands are added unrounded.

    >>> total = torch.tensor([[1.0]])
    >>> add_product(total, torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0], [1.0]]))
    >>> total
    tensor([[6.]])
    """
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        for rows in blocks(total.shape[0]):
            total[rows].addmm_(a[rows].to(total.dtype), b.to(total.dtype))


def blocks(n: int, size: int = 8192) -> list[slice]:
    """``range(n)`` in pieces.

    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    return [slice(start, start + size) for start in range(0, n, size)]
