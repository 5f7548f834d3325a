from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.training.schedules import checkpoint_steps, evaluation_steps, lr_factor, total_steps, warmup_steps


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@given(total=st.integers(1, 200), data=st.data())
def test_lr_rises_to_its_peak_once_and_never_rises_again(schedule, total, data):
    warmup = data.draw(st.integers(0, total))
    factors = [lr_factor(step, total, schedule, warmup) for step in range(1, total + 1)]
    peak = max(warmup, 1)
    assert factors[peak - 1] == pytest.approx(1.0)
    assert all(a < b for a, b in zip(factors[:peak], factors[1:peak], strict=False))
    assert all(a >= b for a, b in zip(factors[peak - 1 :], factors[peak:], strict=False))
    assert all(0 < factor <= 1 for factor in factors)  # 0 would be a step that changes nothing
    if schedule == "constant":
        assert set(factors[peak - 1 :]) == {1.0}
    elif total > peak:
        assert factors[-1] < 1.0


def test_linear_decay_falls_by_equal_parts():
    factors = [lr_factor(step, 10, "linear", 2) for step in range(1, 11)]
    assert factors == pytest.approx([1 / 2, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9])


@given(total=st.integers(1, 5000))
def test_log_cadence_is_the_powers_of_two_and_both_ends(total):
    powers = [2**k for k in range(13) if 2**k < total]
    assert list(evaluation_steps(total, "log")) == [0, *powers, total]


@given(total=st.integers(1, 500), every=st.integers(1, 600))
def test_fixed_cadence(total, every):
    steps = evaluation_steps(total, every)
    assert set(steps) == {0, total} | {s for s in range(1, total) if s % every == 0}
    assert list(steps) == sorted(set(steps))


def test_named_steps_are_put_in_order_and_cut_at_the_end():
    assert evaluation_steps(20, (12, 4, 4, 30)) == (0, 4, 12, 20)
    assert evaluation_steps(20, (20, 0, 19, 21)) == (0, 19, 20)


def test_log_cadence_of_a_power_of_two_has_its_end_once():
    assert evaluation_steps(16, "log") == (0, 1, 2, 4, 8, 16)


def test_names_read_from_a_file_count_like_literals():
    linear, cosine, log, epoch = json.loads('["linear", "cosine", "log", "epoch"]')
    assert [lr_factor(step, 4, linear) for step in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
    assert lr_factor(3, 4, cosine, 1) == pytest.approx(0.5)
    assert evaluation_steps(5, log) == (0, 1, 2, 4, 5)
    assert checkpoint_steps(5, epoch, steps_per_epoch=2) == (2, 4, 5)


def test_cadence_none_is_both_ends():
    assert evaluation_steps(7, None) == (0, 7)


def test_checkpoints_have_the_last_step_and_never_step_zero():
    assert checkpoint_steps(7, 3, steps_per_epoch=99) == (3, 6, 7)
    assert checkpoint_steps(6, "epoch", steps_per_epoch=3) == (3, 6)
    assert checkpoint_steps(2, "epoch", steps_per_epoch=3) == (2,)


def test_steps_and_warmup():
    assert total_steps(9, 4, epochs=2) == 6  # 4 + 4 + 1, twice
    assert total_steps(9, 4, epochs=2, max_steps=100) == 100
    assert warmup_steps(1, 50) == 1  # an int is a number of steps, even 1
    assert warmup_steps(0.1, 51) == 6
