"""Keyed noise: the published hash, uniform and independent along every key, and Gumbel-max samples the softmax."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.generation.seeded_noise import _finalize_, bits_to_uniform, gumbel, keyed_bits, row_key

_MASK = 2**64 - 1


def splitmix64_finalizer(z: int) -> int:
    """The same hash on Python's unbounded integers."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def test_stream_of_seed_zero_is_the_published_one() -> None:
    """First outputs of SplitMix64 from state 0, as in the reference implementation's test vectors."""
    state, outputs = 0, []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        outputs.append(splitmix64_finalizer(state))
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.integers(-(2**63), 2**63 - 1))
def test_tensor_hash_equals_the_integer_hash(z: int) -> None:
    assert _finalize_(torch.tensor([z])).item() & _MASK == splitmix64_finalizer(z & _MASK)


def test_bits_equal_the_integer_formula() -> None:
    key, position, size = -123456789, 5, 7
    start = splitmix64_finalizer(key + 6 * 0x9E3779B97F4A7C15 & _MASK)
    expected = [splitmix64_finalizer(start + v * 0x9E3779B97F4A7C15 & _MASK) for v in range(1, size + 1)]
    assert [b & _MASK for b in keyed_bits(torch.tensor([key]), position, size)[0].tolist()] == expected


def test_rows_do_not_see_each_other_and_the_vocabulary_may_grow() -> None:
    keys = torch.tensor([row_key(0, [1, 2], s) for s in range(5)])
    together = keyed_bits(keys, 3, 100)
    for row in range(5):
        assert torch.equal(together[row], keyed_bits(keys[row : row + 1], 3, 200)[0, :100])
    assert torch.equal(together.flip(0), keyed_bits(keys.flip(0), 3, 100))


def test_keys_differ_in_every_component() -> None:
    parts = [(seed, ids, s) for seed in (0, 1, -1) for ids in ([1, 23], [12, 3], [123], [23, 1]) for s in (0, 1, 11)]
    assert len({row_key(*part) for part in parts}) == len(parts)


def test_uniform_stays_inside_the_open_interval_and_keeps_small_values() -> None:
    extreme = torch.tensor([0, 1, 2, 2**62, -1, -2, -(2**63), 2**63 - 1])
    uniform = bits_to_uniform(extreme)
    assert uniform.min() > 0 and uniform.max() < 1
    assert uniform[2].item() == pytest.approx(1.5 * 2**-63)  # not rounded to a multiple of 2**-24
    assert gumbel(torch.tensor([0]), 0, 1000).isfinite().all()


def chi_square(counts: torch.Tensor) -> float:
    """Distance from equal counts in standard deviations of the chi-square distribution."""
    expected = counts.sum() / counts.numel()
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    degrees = counts.numel() - 1
    return (statistic - degrees) / math.sqrt(2 * degrees)


@pytest.mark.parametrize("along", ["vocabulary", "positions", "samples", "prompts", "seeds"])
def test_uniform_along_every_key_and_neighbours_independent(along: str) -> None:
    n = 40_000
    if along == "vocabulary":
        bits = keyed_bits(torch.tensor([row_key(0, [1], 0)]), 0, n)[0]
    elif along == "positions":
        key = torch.tensor([row_key(0, [1], 0)])
        bits = torch.cat([keyed_bits(key, p, 4)[0, :1] for p in range(n // 4)])
    else:
        make = {
            "samples": lambda i: row_key(0, [1], i),
            "prompts": lambda i: row_key(0, [i], 0),
            "seeds": lambda i: row_key(i, [1], 0),
        }[along]
        bits = keyed_bits(torch.tensor([make(i) for i in range(n)]), 0, 1)[:, 0]
    cells = (bits_to_uniform(bits) * 16).long()  # the upper four bits
    assert abs(chi_square(torch.bincount(cells, minlength=16).double())) < 4
    pairs = cells[:-1] * 16 + cells[1:]  # each number with its neighbour
    assert abs(chi_square(torch.bincount(pairs, minlength=256).double())) < 4
    low = bits & 15
    assert abs(chi_square(torch.bincount(low, minlength=16).double())) < 4


def test_gumbel_has_mean_and_variance_of_a_gumbel() -> None:
    noise = gumbel(torch.tensor([row_key(1, [4], 2)]), 0, 200_000).double()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.012)  # four standard errors
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.06)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_argmax_with_noise_samples_the_softmax(temperature: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -torch.inf])
    n = 20_000
    keys = torch.tensor([row_key(7, [9], s) for s in range(n)])
    chosen = (logits / temperature + gumbel(keys, 11, 6)).argmax(-1)
    counts = torch.bincount(chosen, minlength=6).double()
    expected = (logits / temperature).softmax(-1).double() * n
    assert counts[5] == 0
    statistic = ((counts[:5] - expected[:5]) ** 2 / expected[:5]).sum().item()
    assert statistic < 18.5  # chi-square with 4 degrees of freedom: one in a thousand
    # The noise of another temperature is the same, so a wrong temperature must show.
    assert counts[0] / n == pytest.approx(expected[0].item() / n, abs=0.015)


def test_many_rare_tokens_get_their_share() -> None:
    """2**17 equal tokens beside one of 2**17 times their weight: half of the draws each."""
    size = 2**17
    logits = torch.zeros(size + 1)
    logits[-1] = math.log(size)
    keys = torch.tensor([row_key(0, [0], s) for s in range(256)])
    wins = sum(int((logits + gumbel(k[None], 0, size + 1)[0]).argmax() == size) for k in keys)
    assert 128 - 32 < wins < 128 + 32  # four standard deviations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_numbers_on_the_gpu() -> None:
    keys = torch.tensor([row_key(0, [1], s) for s in range(8)])
    assert torch.equal(keyed_bits(keys, 3, 1000), keyed_bits(keys.cuda(), 3, 1000).cpu())
    uniform = bits_to_uniform(keyed_bits(keys, 3, 1000))
    assert torch.equal(uniform, bits_to_uniform(keyed_bits(keys.cuda(), 3, 1000)).cpu())
    torch.testing.assert_close(gumbel(keys, 3, 1000), gumbel(keys.cuda(), 3, 1000).cpu(), rtol=1e-5, atol=1e-6)
