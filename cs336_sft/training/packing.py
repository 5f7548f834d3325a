"""A batch without padding: its sequences stand one after another in a single row, and do not see each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

MULTIPLE = 256  # of tokens in a row: about 10 lengths of a row in GSM8K


class Packed(NamedTuple):
    """The sequences of a batch in one row, and a last one that fills it up."""

    input_ids: torch.Tensor  # [1, N]
    position_ids: torch.Tensor  # [1, N], from 0 in each sequence
    starts: torch.Tensor  # [B + 2] int32, where each begins; the last is N
    longest: int  # a power of 2 that no sequence exceeds

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.input_ids.numel(), self.starts.numel(), self.longest

    def to(self, device: torch.device) -> Packed:
        return Packed(*[tensor.to(device) for tensor in self[:3]], self.longest)

    def inputs(self) -> dict[str, Any]:
        """Return what the model's forward takes."""
        names = ("input_ids", "position_ids", "cu_seq_lens_q", "max_length_q")  # the last two reach `packed_attention`
        return dict(zip(names, self, strict=True))


def pack(ids: torch.Tensor, real: torch.Tensor) -> Packed:
    """Pack ``ids [B, T]``, of which those are tokens where ``real`` is True.

    >>> batch = pack(torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[True, True, True], [True, False, False]]))
    >>> batch.input_ids[0, :5].tolist(), batch.position_ids[0, :5].tolist(), batch.starts.tolist(), batch.longest
    ([5, 6, 7, 8, 0], [0, 1, 2, 0, 0], [0, 3, 4, 256], 512)
    """
    lengths = real.sum(1)
    fill = MULTIPLE - int(lengths.sum()) % MULTIPLE  # at least 1: kernels need not know empty sequences
    lengths = torch.cat([lengths, lengths.new_tensor([fill])])
    starts = F.pad(lengths.cumsum(0), (1, 0))  # [B + 2]
    positions = torch.arange(int(starts[-1])) - starts[:-1].repeat_interleave(lengths)
    longest = max(512, 1 << int(lengths.max() - 1).bit_length())  # few values, so few recordings
    return Packed(F.pad(ids[real], (0, fill))[None], positions[None], starts.int(), longest)


def packed_attention(module, query, key, value, attention_mask, *, scaling=None, sliding_window=None, **kwargs):
    """Attend within each sequence, from ``[1, heads, N, D]`` to ``[1, N, heads, D]``."""
    starts, longest = kwargs["cu_seq_lens_q"], kwargs["max_length_q"]
    if query.is_cuda:  # the operator below torch.nn.attention.varlen, whose arguments change with each version of torch
        rows = [states[0].transpose(0, 1).to(value.dtype) for states in (query, key, value)]  # [N, heads, D]
        left = sliding_window - 1 if sliding_window else -1
        attend = torch.ops.aten._flash_attention_forward
        sizes = {"scale": scaling, "window_size_left": left, "window_size_right": 0}
        return attend(*rows, starts, starts, longest, longest, 0.0, True, False, **sizes)[0][None], None
    place = torch.arange(query.shape[2])
    sequence = torch.bucketize(place, starts, right=True)
    behind = place[:, None] - place
    seen = (sequence[:, None] == sequence) & (behind >= 0) & (behind < (sliding_window or len(place)))
    settings = {"attn_mask": seen, "scale": scaling, "enable_gqa": key.shape[1] < query.shape[1]}
    return F.scaled_dot_product_attention(query, key, value, **settings).transpose(1, 2), None
