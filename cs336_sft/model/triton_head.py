"""The chunked head as a Triton kernel: softmax inside the matrix product, so that no logit is written to memory.

One kernel multiplies a tile of hidden states with a tile of the weight and, while the float32 logits are in registers,
turns them into ``u = exp(z - z_label)``. Only ``u``, in bfloat16, and its row sums in float32 are written. With
``rest = sum_{v != label} u_v`` everything follows without another pass, and without cancellation:

    log p(label) = -log(1 + rest)        p_v = u_v / (1 + rest)        p_label - 1 = -rest / (1 + rest)

The denominator need not reach ``u``: ``dW = u^T (hidden / (1 + rest))``. A label so unlikely that ``exp`` would
overflow (log p below -30) gets another reference in the tile that shows it; its row is brought to one afterwards.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache

import torch

from cs336_sft.model.products import add_product, blocks, compiled_on_gpu, product

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor  # which the Triton of torch 2.6 does not have
except ImportError:  # the functions below are then never called, but must be there to be imported
    triton = tl = TensorDescriptor = None

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tiles:
    """How the product is cut: rows, columns and depth of a tile, and what Triton runs it with."""

    rows: int = 128
    columns: int = 256
    depth: int = 64
    stages: int = 3
    warps: int = 8

    @property
    def shared_memory(self) -> int:
        """Bytes of shared memory that the kernel needs, at most."""
        # the operands of each stage, half a result, barriers
        return 2 * self.stages * (self.rows + self.columns) * self.depth + self.rows * self.columns + 1024


# With Triton 3.9 the large tiles need 180,760 bytes on sm_90, which has 232,448, and 132,112 on sm_120, which has
# 101,376; on sm_80 to sm_89 they spill registers. The small ones need at most 82,960, and spill nowhere.
LARGE, SMALL = Tiles(), Tiles(columns=128)


def usable_tiles(hidden: torch.Tensor, weight: torch.Tensor) -> Tiles | None:
    """Return the tiles for ``[N, H]`` and ``[V, H]``, or None for no kernel."""
    if triton is None or not hidden.is_cuda or os.environ.get("CS336_TRITON") == "0":
        return None
    bf16 = hidden.dtype == weight.dtype == torch.bfloat16
    whole = hidden.is_contiguous() and weight.is_contiguous() and hidden.shape[-1] % 64 == 0 and len(hidden) > 0
    return _tried_tiles(hidden.device, hidden.shape[-1]) if bf16 and whole else None


def tiles_for(capability: tuple[int, int], shared_memory: int) -> Tiles | None:
    """Choose the tiles by compute capability and bytes of shared memory a block."""
    if capability < (8, 0):  # no bfloat16
        return None
    return LARGE if capability >= (9, 0) and shared_memory >= LARGE.shared_memory else SMALL


@lru_cache
def _tried_tiles(device: torch.device, width: int) -> Tiles | None:
    """Try the kernels on a small problem, and log once where they fail."""
    memory = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    tiles = tiles_for(torch.cuda.get_device_capability(device), memory)
    try:
        if tiles is not None:
            with torch.random.fork_rng([device]):
                _try_out(device, width, tiles)
        return tiles
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # what a compiler or a driver raises has no common type
        name, reason = torch.cuda.get_device_name(device), (str(error).strip() or type(error).__name__).splitlines()[0]
        LOG.warning("the Triton kernel does not run on %s (%s): the chunked head is used instead", name, reason)
        return None


def _try_out(device: torch.device, width: int, tiles: Tiles) -> None:
    hidden = torch.randn(16, width, device=device).bfloat16()
    weight = torch.randn(512, width, device=device).mul_(width**-0.5).bfloat16()
    labels = torch.arange(16, device=device)
    expected = (hidden.float() @ weight.float().T).log_softmax(dim=-1)[labels, labels]
    dtypes = (torch.bfloat16, torch.float32)
    found, *_ = one_pass(hidden, weight, labels, torch.ones(16, device=device), dtypes=dtypes, tiles=tiles)
    worst = (found - expected).abs().max().item()
    if not worst < 0.01:
        raise RuntimeError(f"its log-probabilities are off by {worst:.2g} nats")


def label_logits(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Compute ``z_label [N]`` in float32."""
    return torch.linalg.vecdot(hidden.float(), weight[labels].float()) * scale


def exp_logits(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    reference: torch.Tensor,
    labels: torch.Tensor,
    out: torch.Tensor | None,
    *,
    scale: float = 1.0,
    tiles: Tiles = LARGE,
) -> torch.Tensor:
    """Write ``u = exp(scale * hidden @ weight.T - reference)``, return its sums.

    ``out`` is ``[N, V]``, or None if only the sums are wanted. The label's entry is 0, to be filled in. The sums are
    float32 ``[3, tiles, N]``: reference beyond the row's own, sum of u, and sum of u log u.
    """
    n_rows, n_columns = len(hidden), len(weight)
    n_tiles = triton.cdiv(n_columns, tiles.columns)
    sums = hidden.new_empty(3, n_tiles, n_rows, dtype=torch.float32)
    target, block = (hidden, tiles.depth) if out is None else (out, tiles.columns // 2)
    at_once = torch.cuda.get_device_properties(hidden.device).multi_processor_count if hidden.is_cuda else 3
    programs = min(at_once, triton.cdiv(n_rows, tiles.rows) * n_tiles)
    sizes = (n_rows, n_columns, scale, hidden.shape[1], tiles.rows, tiles.columns, tiles.depth, programs)
    _exp_logits_kernel[(programs,)](
        TensorDescriptor.from_tensor(hidden, [tiles.rows, tiles.depth]),
        TensorDescriptor.from_tensor(weight, [tiles.columns, tiles.depth]),
        TensorDescriptor(target, list(target.shape), [target.stride(0), 1], [tiles.rows, block]),
        reference,
        labels,
        sums,
        *sizes,
        STORE=out is not None,
        num_stages=tiles.stages,
        num_warps=tiles.warps,
    )
    return sums


def row_statistics(sums: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute ``(shift, rest, total, log_probs, entropy)``, ``[N]`` each."""
    # Relative to `shift`, `rest` is the sum over the other tokens and `total` that over all.
    shifts, totals, weighted_sums = sums  # [tiles, N] each
    shift = shifts.amax(dim=0)  # the row's reference beyond the label's logit: 0 but for very unlikely labels
    down = shifts - shift  # at most 0
    fraction = down.exp()
    rest = (totals * fraction).sum(dim=0)
    of_label = (-shift).exp()
    total = rest + of_label
    log_total = torch.where(shift == 0, torch.log1p(rest), total.log())
    weighted = ((weighted_sums + down * totals) * fraction).sum(dim=0) - shift * of_label
    return shift, rest, total, -shift - log_total, log_total - weighted / total


def one_pass(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor | None,
    *,
    scale: float = 1.0,
    dtypes: tuple[torch.dtype | None, torch.dtype | None],
    chunk: int = 1536,  # rows at a time, 2 V chunk bytes
    tiles: Tiles = LARGE,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Compute log-probabilities and entropies, and gradients of the loss.

    The loss is ``-sum_i weights_i log p_i``. Returns ``(log_probs [N], entropy [N], gradient of hidden [N, H],
    gradient of weight [V, H])``; ``dtypes`` are those of the gradients, None for one that is not wanted.
    """
    log_probs, entropy = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
    of_hidden = torch.empty_like(hidden, dtype=dtypes[0]) if dtypes[0] else None
    of_weight = torch.zeros_like(weight, dtype=torch.float32) if dtypes[1] else None
    buffer = None
    if any(dtypes):  # a row begins at a multiple of 16 bytes, which the hardware's tile copies demand
        buffer = hidden.new_empty(min(chunk, len(hidden)), -(-len(weight) // 8) * 8)
    for rows in blocks(len(hidden), chunk):
        x, targets = hidden[rows], labels[rows]  # [c, H], [c]
        u = None if buffer is None else buffer[: len(x), : len(weight)]  # [c, V]
        reference = label_logits(x, weight, targets, scale)
        sums = exp_logits(x, weight, reference, targets, u, scale=scale, tiles=tiles)
        shift, rest, total, log_probs[rows], entropy[rows] = compiled_on_gpu(row_statistics, hidden)(sums)
        if u is None:
            continue
        # Rows with tiles that have a reference of their own are brought to one; the others are left alone.
        _rescale_kernel[(len(x),)](
            u, u.stride(0), sums[0], shift, len(x), len(weight), sums.shape[1], BLOCK=tiles.columns
        )
        u.scatter_(-1, targets.unsqueeze(-1), -rest.unsqueeze(-1).to(u.dtype))
        factor = (weights[rows] / total * scale).unsqueeze(-1)  # [c, 1]
        if of_hidden is not None:
            of_hidden[rows] = product(u, weight) * factor
        if of_weight is not None:
            add_product(of_weight, u.T, (x * factor).to(x.dtype))
    return log_probs, entropy, of_hidden, None if of_weight is None else of_weight.to(dtypes[1])


if triton is not None:

    @triton.jit
    def _exp_logits_kernel(
        hidden,
        weight,
        out,
        reference,
        labels,
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
                # In two halves, which leaves room for another stage in shared memory.
                parts = tl.permute(tl.reshape(u, (ROWS, 2, COLUMNS // 2)), (0, 2, 1))
                left, right = tl.split(parts)
                out.store([down * ROWS, across * COLUMNS], left.to(out.dtype))
                out.store([down * ROWS, across * COLUMNS + COLUMNS // 2], right.to(out.dtype))

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
                tl.store(place, values * factor, mask=columns < n_columns)
