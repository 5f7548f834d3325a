"""Random numbers that depend on what is sampled and on nothing else: counter-based Gumbel noise.

An ordinary generator hands out its numbers in the order in which they are asked for, so a sample changes with the
batch it happens to sit in. Here each number is a hash of (seed, prompt, sample number, position, vocabulary index).
Whatever the batch, the order or the device, the same token of the same sample meets the same noise.

The Gumbel-max trick turns noise into a sample: ``argmax(logits / T + gumbel)`` is distributed as
``softmax(logits / T)`` (Gumbel 1954; Maddison, Tarlow and Minka, "A* Sampling", 2014, section 2).
The hash is SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

# SplitMix64's increment (2**64 / golden ratio) and the two multipliers of its finalizer ("mix13" of Stafford).
_GAMMA = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB


def _as_int64(value: int) -> int:
    """The signed number with the same 64 bits: torch has int64 arithmetic on every device, uint64 on few."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _shift_right_(z: torch.Tensor, bits: int) -> torch.Tensor:
    """``z >> bits`` filled with zeros from the left: torch's shift of int64 copies the sign bit, so mask it off."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)


def _finalize_(z: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer, in place: each bit of the input changes each bit of the output half of the time."""
    z ^= _shift_right_(z, 30)
    z *= _as_int64(_MULTIPLIER_1)  # wraps around modulo 2**64, as wanted
    z ^= _shift_right_(z, 27)
    z *= _as_int64(_MULTIPLIER_2)
    z ^= _shift_right_(z, 31)
    return z


def row_key(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """The 64-bit key of one sample of one prompt, as a signed integer.

    >>> row_key(0, [5, 6], 0) == row_key(0, (5, 6), 0)
    True
    >>> len({row_key(0, [5, 6], 0), row_key(1, [5, 6], 0), row_key(0, [5, 6], 1), row_key(0, [56], 0)})
    4
    """
    text = f"{seed}|{sample}|{','.join(map(str, prompt_ids))}"
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keyed_bits(keys: torch.Tensor, position: int | torch.Tensor, vocab_size: int) -> torch.Tensor:
    """64 random bits for each row and vocabulary index. ``keys`` int64 ``[B]`` -> int64 ``[B, V]``.

    ``position`` is one number for all rows, or int64 ``[B]`` where rows are at different places of their texts.

    Each (row, position) starts a SplitMix64 stream of its own; the vocabulary index counts along it.

    >>> bits = keyed_bits(torch.tensor([3, 4]), position=7, vocab_size=5)
    >>> torch.equal(bits[1:], keyed_bits(torch.tensor([4]), position=7, vocab_size=5))  # the row alone decides
    True
    """
    # Hash the position into the key (rather than add it), so that no two streams run along the same states.
    if isinstance(position, torch.Tensor):
        offset = (position + 1) * _as_int64(_GAMMA)  # wraps around modulo 2**64, as the line below does
    else:
        offset = _as_int64((position + 1) * _GAMMA)
    start = _finalize_(keys + offset)  # [B]
    steps = torch.arange(1, vocab_size + 1, device=keys.device, dtype=torch.int64) * _as_int64(_GAMMA)  # [V]
    return _finalize_(start[:, None] + steps)


def bits_to_uniform(bits: torch.Tensor) -> torch.Tensor:
    """Uniform numbers in the open interval (0, 1), float32, from 64 random bits each.

    The upper 63 bits are rounded to float32's 24 significant bits. Numbers near 0 keep their full relative
    precision (the smallest is ``2**-64``), which is where Gumbel noise needs it: see `gumbel`. Integers are the same
    on every device, and so is their conversion (IEEE 754 round to nearest).

    >>> bits_to_uniform(torch.tensor([0, -1])).tolist()
    [5.421010862427522e-20, 0.9999999403953552]
    """
    uniform = (_shift_right_(bits, 1).to(torch.float32) + 0.5) * 2.0**-63
    return uniform.clamp_(max=1 - 2.0**-24)  # the largest inputs round up to 1, and 1 is outside the interval


def gumbel(keys: torch.Tensor, position: int | torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Standard Gumbel noise. ``keys`` int64 ``[B]`` -> float32 ``[B, V]``.

    ``-log(E)`` with ``E = -log(1 - u)``, exponentially distributed. The tokens that win have large noise, that is a
    small ``E``, that is a small ``u``; ``log1p`` keeps them exact, where the textbook's ``-log(-log(u))`` would draw
    them from the coarse steps just below ``u = 1`` and get tokens of probability under 1e-7 wrong in float32.

    >>> noise = gumbel(torch.tensor([row_key(0, [5, 6], 0)]), position=0, vocab_size=100_000)
    >>> print(f"{noise.mean():.1f}")  # of a standard Gumbel variable: Euler's constant, 0.577
    0.6
    """
    uniform = bits_to_uniform(keyed_bits(keys, position, vocab_size))
    return uniform.neg_().log1p_().neg_().log_().neg_()
