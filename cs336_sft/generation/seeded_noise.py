"""Gumbel noise that is a hash of seed, prompt, sample number, position and vocabulary index, and of nothing else.

The Gumbel-max trick: ``argmax(logits / T + gumbel)`` is distributed as ``softmax(logits / T)`` (Maddison, Tarlow and
Minka, "A* Sampling", 2014, section 2). The hash is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

_GAMMA = 0x9E3779B97F4A7C15  # SplitMix64's increment, 2**64 / golden ratio


def _as_int64(value: int) -> int:
    """Return the signed number with the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def _shift_right_(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right and fill with zeros from the left."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)  # torch's shift of int64 copies the sign bit: mask it off


def _finalize_(z: torch.Tensor) -> torch.Tensor:
    """Apply SplitMix64's finalizer ("mix13" of Stafford) in place."""
    z ^= _shift_right_(z, 30)
    z *= _as_int64(0xBF58476D1CE4E5B9)  # wraps around modulo 2**64, as wanted
    z ^= _shift_right_(z, 27)
    z *= _as_int64(0x94D049BB133111EB)
    z ^= _shift_right_(z, 31)
    return z


def row_key(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """Hash one sample of one prompt to a 64-bit key, a signed integer."""
    text = f"{seed}|{sample}|{','.join(map(str, prompt_ids))}"
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keyed_bits(keys: torch.Tensor, position: int, vocab_size: int) -> torch.Tensor:
    """Make 64 random bits for each row and vocabulary index, int64 ``[B, V]``."""
    # Each (row, position) starts a stream of its own, and the vocabulary index counts along it.
    # Hash the position into the key (rather than add it), so that no two streams run along the same states.
    start = _finalize_(keys + _as_int64((position + 1) * _GAMMA))  # [B]
    steps = torch.arange(1, vocab_size + 1, device=keys.device, dtype=torch.int64) * _as_int64(_GAMMA)  # [V]
    return _finalize_(start[:, None] + steps)


def bits_to_uniform(bits: torch.Tensor) -> torch.Tensor:
    """Turn 64 random bits each into uniform float32 numbers in (0, 1), exact near 0."""
    uniform = (_shift_right_(bits, 1).to(torch.float32) + 0.5) * 2.0**-63
    return uniform.clamp_(max=1 - 2.0**-24)  # the largest inputs round up to 1, and 1 is outside the interval


def gumbel(keys: torch.Tensor, position: int, vocab_size: int) -> torch.Tensor:
    """Make standard Gumbel noise, ``keys`` int64 ``[B]`` -> float32 ``[B, V]``."""
    # The winning tokens have a small u, which log1p keeps exact; the textbook's -log(-log(u)) would get tokens of
    # probability under 1e-7 wrong in float32.
    uniform = bits_to_uniform(keyed_bits(keys, position, vocab_size))
    return uniform.neg_().log1p_().neg_().log_().neg_()
