"""Random numbers that depend on what is sampled and on nothing else: counter-based Gumbel noise.

Each number is a hash of (seed, prompt, sample number, position, vocabulary index), so that a sample does not change
with the batch it happens to sit in, or with the device.
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
    """Return the signed number with the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


def _shift_right_(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right and fill with zeros from the left."""
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1)  # torch's shift of int64 copies the sign bit: mask it off


def _finalize_(z: torch.Tensor) -> torch.Tensor:
    """Apply SplitMix64's finalizer in place."""
    z ^= _shift_right_(z, 30)
    z *= _as_int64(_MULTIPLIER_1)  # wraps around modulo 2**64, as wanted
    z ^= _shift_right_(z, 27)
    z *= _as_int64(_MULTIPLIER_2)
    z ^= _shift_right_(z, 31)
    return z


def row_key(seed: int, prompt_ids: Sequence[int], sample: int) -> int:
    """Hash one sample of one prompt to a 64-bit key, a signed integer."""
    text = f"{seed}|{sample}|{','.join(map(str, prompt_ids))}"
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def keyed_bits(keys: torch.Tensor, position: int, vocab_size: int) -> torch.Tensor:
    """Make 64 random bits for each row and vocabulary index.

    ``keys`` int64 ``[B]`` -> int64 ``[B, V]``. Each (row, position) starts a SplitMix64 stream of its own, and the
    vocabulary index counts along it.
    """
    # Hash the position into the key (rather than add it), so that no two streams run along the same states.
    start = _finalize_(keys + _as_int64((position + 1) * _GAMMA))  # [B]
    steps = torch.arange(1, vocab_size + 1, device=keys.device, dtype=torch.int64) * _as_int64(_GAMMA)  # [V]
    return _finalize_(start[:, None] + steps)


def bits_to_uniform(bits: torch.Tensor) -> torch.Tensor:
    """Turn 64 random bits each into uniform float32 numbers in (0, 1).

    Numbers near 0 keep their full relative precision (the smallest is ``2**-64``), which is where `gumbel` needs it.
    """
    uniform = (_shift_right_(bits, 1).to(torch.float32) + 0.5) * 2.0**-63
    return uniform.clamp_(max=1 - 2.0**-24)  # the largest inputs round up to 1, and 1 is outside the interval


def gumbel(keys: torch.Tensor, position: int, vocab_size: int) -> torch.Tensor:
    """Make standard Gumbel noise, ``keys`` int64 ``[B]`` -> float32 ``[B, V]``.

    ``-log(-log(1 - u))``: the winning tokens have a small ``u``, which ``log1p`` keeps exact. The textbook's
    ``-log(-log(u))`` would get tokens of probability under 1e-7 wrong in float32.
    """
    uniform = bits_to_uniform(keyed_bits(keys, position, vocab_size))
    return uniform.neg_().log1p_().neg_().log_().neg_()
