"""bfloat16's spacing against PyTorch's own rounding, and what a step changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.errors import DataError
from cs336_sft.lessons.bf16_updates import bf16_spacing, fraction_moved


def neighbour(value: torch.Tensor) -> torch.Tensor:
    """The next bfloat16 of larger magnitude, by its bits."""
    return (value.view(torch.int16) + 1).view(torch.bfloat16)


@given(st.floats(1e-30, 1e30), st.sampled_from([1.0, -1.0]))
def test_spacing_is_the_distance_to_the_next_number(size, sign) -> None:
    value = torch.tensor([size * sign]).bfloat16()
    expected = (neighbour(value).float() - value.float()).abs()
    assert torch.equal(bf16_spacing(value), expected)


@given(st.floats(1e-6, 10.0), st.floats(1e-8, 0.1))
def test_an_update_above_half_the_spacing_moves_the_stored_number(size, update) -> None:
    value = torch.tensor([size]).bfloat16()
    half = float(bf16_spacing(value)) / 2
    if abs(update - half) < 1e-3 * half:
        return  # a tie: rounding to even decides
    grown = (value.float() + update).bfloat16()
    assert bool(grown != value) == (update > half)


def model_with_gradients(*weights: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(len(weights), 1, bias=False)
    layer.weight.data.copy_(torch.tensor([weights]))
    (layer(torch.ones(1, len(weights))) ** 2).sum().backward()
    return layer


def test_a_step_moves_all_weights_in_float32_and_small_ones_in_bfloat16() -> None:
    layer = model_with_gradients(0.5, 0.02, 0.001, 0.0005)
    before = layer.weight.detach().clone(), layer.weight.grad.clone()
    assert fraction_moved(layer, 1e-5, torch.float32) == 1.0
    assert fraction_moved(layer, 1e-5, torch.bfloat16) == 0.5
    assert fraction_moved(layer, 1e-2, torch.bfloat16) == 1.0
    assert torch.equal(layer.weight, before[0]) and torch.equal(layer.weight.grad, before[1]), "made on copies"


def test_a_model_without_gradients_is_an_error() -> None:
    with pytest.raises(DataError, match="gradient"):
        fraction_moved(torch.nn.Linear(2, 1), 1e-5, torch.float32)
