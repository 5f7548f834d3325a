"""The chunked head on a GPU: softmax inside the matrix product, so that no logit is written to memory.

``chunked_head`` makes a chunk of logits and then passes over it several times; on a GPU these passes cost half as much
as the products. Here one Triton kernel multiplies a tile of hidden states with a tile of the weight and, while the
float32 logits are still in registers, turns them into ``u = exp(z - z_label)``. Of each tile only ``u``, in bfloat16,
and its row sums in float32 are written. With ``rest = sum_{v != label} u_v`` everything follows without another pass:

    log p(label) = -log(1 + rest)        p_v = u_v / (1 + rest)        p_label - 1 = -rest / (1 + rest)

None of the three cancels, however sure the model is. The denominator of a row is known only after its last tile, but
it need not reach ``u``: dividing the rows of the other factor does the same, ``dW = u^T (hidden / (1 + rest))``. A
label so unlikely that ``exp`` would overflow (log p below -30) gets another reference in the tile that shows it, and
its row is brought to one reference afterwards.

Needs Triton, a GPU with bfloat16, no bias and no soft cap; ``is_usable`` says so. Tested against ``chunked_head``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch

from cs336_sft.model.compiled import compiled_on_gpu
from cs336_sft.model.products import add_product, blocks, product

if find_spec("triton"):
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
else:  # the functions below are then never called, but must be there to be imported
    triton = tl = TensorDescriptor = None


@dataclass(frozen=True)
class Tiles:
    """How the product is cut: rows, columns and depth of a tile, and what Triton runs it with."""

    rows: int = 128
    columns: int = 256
    depth: int = 64
    stages: int = 3
    warps: int = 8
    halves: bool = True  # write u in two halves, which leaves room for another stage


@dataclass(frozen=True)
class Sums:
    """Per tile of columns and row, ``[tiles, N]`` float32: reference beyond the row's own, sum of u, sum of u log u."""

    shift: torch.Tensor
    total: torch.Tensor
    weighted: torch.Tensor


def is_usable(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel can run on these operands (already in the dtype that the head computes in)."""
    if triton is None or not hidden.is_cuda or hidden.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16:
        return False
    major, _ = torch.cuda.get_device_capability(hidden.device)
    return major >= 8 and hidden.shape[-1] % 64 == 0 and weight.is_contiguous() and len(hidden) > 0


def label_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``z_label [N]`` in float32, from the rows of the weight that the labels name."""
    return torch.linalg.vecdot(hidden.float(), weight[labels].float()) * scale


def exp_logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    reference: torch.Tensor,
    labels: torch.Tensor,
    out: torch.Tensor | None,
    *,
    scale: float = 1.0,
    at_label: torch.Tensor | None = None,
    tiles: Tiles = Tiles(),
) -> Sums | None:
    """``u = exp(scale * hidden @ weight.T - reference)`` into ``out``, and its sums without the label's entry.

    Args:
        hidden: bfloat16 ``[N, H]``.
        weight: bfloat16 ``[V, H]``, the whole vocabulary's or a block of it.
        reference: float32 ``[N]``, taken off each row's logits.
        labels: int64 ``[N]``, column of the label; one that is outside of the block is no column.
        out: bfloat16 ``[N, >= V]``, or None if only the sums are wanted.
        at_label: float32 ``[N]``: where the references are each row's log of sums, ``out`` becomes p, and this is
            put at the label; there are no sums then. None: the label's entry is 0, to be filled in.

    Returns:
        The sums, or None with ``at_label``.
    """
    n_rows, n_columns = len(hidden), len(weight)
    n_tiles = triton.cdiv(n_columns, tiles.columns)
    sums = hidden.new_empty(3, n_tiles, n_rows, dtype=torch.float32) if at_label is None else None
    width = tiles.columns // 2 if tiles.halves else tiles.columns
    store = out is not None
    programs = min(_multiprocessors(hidden.device), triton.cdiv(n_rows, tiles.rows) * n_tiles)
    _exp_logits_kernel[(programs,)](
        TensorDescriptor.from_tensor(hidden, [tiles.rows, tiles.depth]),
        TensorDescriptor.from_tensor(weight, [tiles.columns, tiles.depth]),
        # Its true width: the tensor may be wider, and columns beyond the vocabulary must not be written.
        TensorDescriptor(
            out if store else hidden,
            [n_rows, n_columns if store else hidden.shape[1]],
            [out.stride(0) if store else hidden.stride(0), 1],
            [tiles.rows, width if store else tiles.depth],
        ),
        reference,
        labels,
        at_label if at_label is not None else reference,
        sums if sums is not None else reference,
        n_rows,
        n_columns,
        scale,
        hidden.shape[1],
        tiles.rows,
        tiles.columns,
        tiles.depth,
        programs,
        STORE=store,
        KNOWN=at_label is not None,
        HALVES=tiles.halves,
        num_stages=tiles.stages,
        num_warps=tiles.warps,
    )
    return None if sums is None else Sums(*sums)


def row_statistics(sums: Sums) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(shift, rest, total, log_probs, entropy)``, ``[N]`` each, from the sums of a row's tiles.

    ``shift`` is the row's reference beyond the label's logit (0 but for very unlikely labels); relative to it
    ``rest`` is the sum over the other tokens and ``total`` that over all.
    """
    shift = sums.shift.amax(dim=0)
    down = sums.shift - shift  # [tiles, N], at most 0
    share = down.exp()
    rest = (sums.total * share).sum(dim=0)
    of_label = (-shift).exp()
    total = rest + of_label
    log_total = torch.where(shift == 0, torch.log1p(rest), total.log())
    weighted = ((sums.weighted + down * sums.total) * share).sum(dim=0) - shift * of_label
    return shift, rest, total, -shift - log_total, log_total - weighted / total


def to_one_reference(u: torch.Tensor, n_columns: int, sums: Sums, shift: torch.Tensor, tiles: Tiles = Tiles()) -> None:
    """Rescale in place the rows of ``u`` that have tiles with references of their own; the others are left alone."""
    _rescale_kernel[(len(shift),)](
        u, u.stride(0), sums.shift, shift, len(shift), n_columns, len(sums.shift), BLOCK=tiles.columns
    )


def statistics(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, *, scale: float = 1.0, tiles: Tiles = Tiles()
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(log_probs, entropy, log_total)``, float32 ``[N]`` each: the forward of ``head_log_probs``, one product.

    ``log_total`` is the log of a row's sum of ``exp(z)``.
    """
    reference = label_logits(hidden, weight, labels, scale)
    sums = exp_logits(hidden, weight, reference, labels, None, scale=scale, tiles=tiles)
    _, _, _, log_probs, entropy = compiled_on_gpu(row_statistics, hidden)(sums)
    return log_probs, entropy, reference - log_probs


def gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    log_total: torch.Tensor,
    log_probs: torch.Tensor,
    grad_log_probs: torch.Tensor,
    *,
    scale: float = 1.0,
    dtypes: tuple[torch.dtype | None, torch.dtype | None],
    block: int = 8192,
    tiles: Tiles = Tiles(),
) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
    """The backward of ``head_log_probs``: three products, over blocks of the vocabulary.

    A block's rows of the weight's gradient are final when they are written, so that they are rounded once.

    Args:
        dtypes: of the gradients of hidden states and weight, None for one that is not wanted.
        block: tokens of the vocabulary at a time; ``2 N block`` bytes.

    Returns:
        The gradients of hidden states and weight, and None for the bias.
    """
    of_hidden = torch.zeros_like(hidden, dtype=torch.float32) if dtypes[0] else None  # [N, H]
    of_weight = torch.empty_like(weight, dtype=dtypes[1]) if dtypes[1] else None  # [V, H]
    factor = (-grad_log_probs * scale).unsqueeze(-1)  # [N, 1]
    scaled = (hidden * factor).to(hidden.dtype)
    at_label = torch.expm1(log_probs)
    p = hidden.new_empty(len(hidden), block)
    for columns in blocks(len(weight), block):
        part = weight[columns]
        exp_logits(hidden, part, log_total, labels - columns.start, p, scale=scale, at_label=at_label, tiles=tiles)
        u = p[:, : len(part)]
        if of_weight is not None and dtypes[1] == torch.float32:
            of_weight[columns] = product(u.T, scaled)
        elif of_weight is not None:
            torch.mm(u.T, scaled, out=of_weight[columns])
        if of_hidden is not None:
            add_product(of_hidden, u, part)
    return None if of_hidden is None else of_hidden.mul_(factor).to(dtypes[0]), of_weight, None


def one_pass(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    scale: float = 1.0,
    dtypes: tuple[torch.dtype | None, torch.dtype | None],
    sum_dtype: torch.dtype = torch.float32,
    chunk: int = 1536,
    tiles: Tiles = Tiles(),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Log-probabilities, entropies, and the gradients of ``-sum_i weights_i log p_i``: three products in all.

    Args:
        dtypes: of the gradients of hidden states and weight, None for one that is not wanted.
        sum_dtype: dtype in which the weight's gradient is summed over the chunks. float32 takes ``4 V H`` bytes;
            bfloat16 half of that, and rounds at each chunk.
        chunk: rows at a time; ``2 V chunk`` bytes.

    Returns:
        ``(log_probs [N], entropy [N], gradient of hidden [N, H], gradient of weight [V, H])``.
    """
    log_probs, entropy = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
    of_hidden = torch.empty_like(hidden, dtype=dtypes[0]) if dtypes[0] else None
    of_weight = torch.zeros_like(weight, dtype=sum_dtype) if dtypes[1] else None
    # A row begins at a multiple of 16 bytes, which the hardware's tile copies demand.
    buffer = hidden.new_empty(min(chunk, len(hidden)), -(-len(weight) // 8) * 8)
    for rows in blocks(len(hidden), chunk):
        x, targets = hidden[rows], labels[rows]  # [c, H], [c]
        u = buffer[: len(x), : len(weight)]  # [c, V]
        reference = label_logits(x, weight, targets, scale)
        sums = exp_logits(x, weight, reference, targets, u, scale=scale, tiles=tiles)
        shift, rest, total, log_probs[rows], entropy[rows] = compiled_on_gpu(row_statistics, hidden)(sums)
        to_one_reference(u, len(weight), sums, shift, tiles)
        u.scatter_(-1, targets.unsqueeze(-1), -rest.unsqueeze(-1).to(u.dtype))
        factor = (weights[rows] / total * scale).unsqueeze(-1)  # [c, 1]
        if of_hidden is not None:
            of_hidden[rows] = product(u, weight) * factor
        if of_weight is not None:
            add_product(of_weight, u.T, (x * factor).to(x.dtype))
    return log_probs, entropy, of_hidden, None if of_weight is None else of_weight.to(dtypes[1])


@lru_cache
def _multiprocessors(device: torch.device) -> int:
    """Programs that run at the same time; 3 where Triton's interpreter runs them on a CPU, one after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


if triton is not None:

    @triton.jit
    def _exp_logits_kernel(
        hidden,
        weight,
        out,
        reference,
        labels,
        at_label,
        sums,
        n_rows,
        n_columns,
        scale,
        H: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
        DEPTH: tl.constexpr,
        PROGRAMS: tl.constexpr,
        STORE: tl.constexpr,
        KNOWN: tl.constexpr,
        HALVES: tl.constexpr,
    ):
        tiles_down = tl.cdiv(n_rows, ROWS)
        tiles_across = tl.cdiv(n_columns, COLUMNS)
        plane = tiles_across * n_rows
        # Down first: the tiles in flight share a few tiles of the weight, which is then read from memory once.
        for tile in tl.range(tl.program_id(0), tiles_down * tiles_across, PROGRAMS, flatten=True):
            down = tile % tiles_down
            across = tile // tiles_down
            z = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
            for k in range(0, H // DEPTH):
                a = hidden.load([down * ROWS, k * DEPTH])
                b = weight.load([across * COLUMNS, k * DEPTH])
                z = tl.dot(a, b.T, z)
            rows = down * ROWS + tl.arange(0, ROWS)
            columns = across * COLUMNS + tl.arange(0, COLUMNS)
            is_row = rows < n_rows
            label = tl.load(labels + rows, mask=is_row, other=-1)
            is_label = columns[None, :] == label[:, None]
            z = z * scale - tl.load(reference + rows, mask=is_row, other=0.0)[:, None]
            if KNOWN:
                value = tl.load(at_label + rows, mask=is_row, other=0.0)
                u = tl.where(is_label, value[:, None], tl.exp(z))
            else:
                # Not -inf, which 0 can't be multiplied with.
                z = tl.where(is_label | (columns[None, :] >= n_columns), -1e30, z)
                top = tl.max(z, axis=1)
                shift = tl.where(top > 30.0, top, 0.0)
                z = z - shift[:, None]
                u = tl.exp(z)
                place = sums + across * n_rows + rows
                tl.store(place, shift, mask=is_row)
                tl.store(place + plane, tl.sum(u, axis=1), mask=is_row)
                tl.store(place + 2 * plane, tl.sum(u * z, axis=1), mask=is_row)
            if STORE:
                if HALVES:
                    parts = tl.permute(tl.reshape(u, (ROWS, 2, COLUMNS // 2)), (0, 2, 1))
                    left, right = tl.split(parts)
                    out.store([down * ROWS, across * COLUMNS], left.to(tl.bfloat16))
                    out.store([down * ROWS, across * COLUMNS + COLUMNS // 2], right.to(tl.bfloat16))
                else:
                    out.store([down * ROWS, across * COLUMNS], u.to(tl.bfloat16))

    @triton.jit
    def _rescale_kernel(u, stride, shifts, shift, n_rows, n_columns, n_tiles, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        target = tl.load(shift + row)
        if target != 0.0:
            for tile in range(0, n_tiles):
                columns = tile * BLOCK + tl.arange(0, BLOCK)
                factor = tl.exp(tl.load(shifts + tile * n_rows + row) - target)
                place = u + row * stride + columns
                values = tl.load(place, mask=columns < n_columns, other=0.0).to(tl.float32)
                tl.store(place, (values * factor).to(tl.bfloat16), mask=columns < n_columns)
