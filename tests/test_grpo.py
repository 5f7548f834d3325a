"""Policy gradients against loops written from the formulas, in value and gradient, and what must not change them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.grpo.advantages import compute_group_normalized_rewards
from cs336_sft.grpo.losses import (
    compute_grpo_clip_loss,
    compute_naive_policy_gradient_loss,
    compute_policy_gradient_loss,
    grpo_microbatch_train_step,
)

EPS = 1e-6


def graded(response: str, truth: str) -> dict[str, float]:
    return {"reward": float(response), "format_reward": 1.0, "answer_reward": float(truth)}


def advantages_of(rewards, group_size, by_std=True):
    texts = [repr(reward) for reward in rewards]
    return compute_group_normalized_rewards(graded, texts, ["0"] * len(texts), group_size, EPS, by_std)


# --- advantages -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, -2.0]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_advantages_are_those_of_the_formula(groups) -> None:
    rewards = [reward for group in groups for reward in group]
    found, raw, metadata = advantages_of(rewards, 4)
    plain, _, _ = advantages_of(rewards, 4, by_std=False)
    assert raw.tolist() == pytest.approx(rewards)
    expected, centred = [], []
    for group in groups:
        mean = statistics.fmean(group)
        centred += [reward - mean for reward in group]
        expected += [(reward - mean) / (statistics.stdev(group) + EPS) for reward in group]
    varied = [len(set(group)) > 1 for group in groups for _ in group]
    assert plain.tolist() == pytest.approx(centred, abs=1e-6)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert all(value == 0.0 for value, differs in zip(found.tolist(), varied, strict=True) if not differs)
    assert metadata["informative"] == pytest.approx(statistics.fmean(varied))
    assert metadata["mean"] == pytest.approx(statistics.fmean(rewards), abs=1e-6)


def test_a_group_is_neighbours_and_its_standard_deviation_is_a_samples() -> None:
    found, _, _ = advantages_of([1.0, 0.0, 5.0, 5.0], 2)
    assert found.tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2), 0, 0], abs=1e-4)


def test_equal_rewards_give_exactly_zero_also_where_their_mean_is_rounded() -> None:
    for number in (3, 5, 7):
        found, _, metadata = advantages_of([0.1] * number, number)
        assert found.tolist() == [0.0] * number and metadata["informative"] == 0.0
    assert advantages_of([0.3, 0.7], 1)[0].tolist() == [0.0, 0.0]  # alone in its group


def test_bad_groups_and_rewards_are_named() -> None:
    with pytest.raises(ConfigError, match="group_size is 2 with 3 responses"):
        advantages_of([1.0, 2.0, 3.0], 2)
    with pytest.raises(ConfigError, match="group_size is 0"):
        advantages_of([1.0], 0)
    with pytest.raises(DataError, match="2 responses and 1 ground truths"):
        compute_group_normalized_rewards(graded, ["1", "2"], ["1"], 2, EPS, True)
    with pytest.raises(DataError, match="reward of response 1 is nan"):
        advantages_of([1.0, math.nan], 2)


# --- losses -----------------------------------------------------------------------------------------------------------


def by_hand(log_probs, old, mask, weights, loss_type, cliprange, steps, constant=None) -> float:
    """The loss of a microbatch in Python's floats."""
    total = 0.0
    for row in range(len(log_probs)):
        losses = []
        for column in range(len(log_probs[row])):
            if not mask[row][column]:
                continue
            value, weight = log_probs[row][column], weights[row]
            if loss_type == "grpo_clip":
                ratio = math.exp(value - old[row][column])
                bounded = min(max(ratio, 1 - cliprange), 1 + cliprange)
                losses.append(-min(ratio * weight, bounded * weight))
            else:
                losses.append(-weight * value)
        total += sum(losses) / (constant or max(1, len(losses)))
    return total / len(log_probs) / steps


def make(seed: int, rows: int = 3, columns: int = 5):
    generator = torch.Generator().manual_seed(seed)
    log_probs = -3 * torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    old = log_probs + torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, columns, generator=generator) > 0.4
    mask[0] = False  # an answer without tokens
    mask[1] = True
    weights = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    return log_probs, old, mask, weights


@pytest.mark.parametrize("constant", [None, 7.0])
@pytest.mark.parametrize("loss_type", ["no_baseline", "reinforce_with_baseline", "grpo_clip"])
@pytest.mark.parametrize("seed", range(4))
def test_a_microbatch_has_the_loss_and_gradient_of_the_formula(loss_type, constant, seed) -> None:
    log_probs, old, mask, weights = make(seed)
    arguments = {"raw_rewards": weights} if loss_type == "no_baseline" else {"advantages": weights}
    arguments |= {"old_log_probs": old, "cliprange": 0.2} if loss_type == "grpo_clip" else {}
    policy = log_probs.clone().requires_grad_()
    loss, metadata = grpo_microbatch_train_step(
        policy, mask, 3, loss_type, **arguments, constant_normalize_factor=constant
    )
    numbers = (old.tolist(), mask.tolist(), weights.flatten().tolist(), loss_type, 0.2, 3, constant)
    assert loss.item() == pytest.approx(by_hand(log_probs.tolist(), *numbers), rel=1e-9)
    assert not loss.requires_grad
    step = 1e-6
    for row in range(3):
        for column in range(5):
            sides = []
            for sign in (1, -1):
                moved = log_probs.clone()
                moved[row, column] += sign * step
                sides.append(by_hand(moved.tolist(), *numbers))
            slope = (sides[0] - sides[1]) / (2 * step)
            assert policy.grad[row, column].item() == pytest.approx(slope, abs=1e-6), (row, column)
    if loss_type == "grpo_clip":
        ratio = (log_probs - old).exp()
        too_far = torch.where(weights > 0, ratio > 1.2, ratio < 0.8)
        assert torch.equal(metadata["is_clipped"][mask], too_far[mask]) and too_far[mask].any()
        assert metadata["clip_fraction"].item() == pytest.approx(too_far[mask].double().mean().item())
        assert not policy.grad[mask & too_far].any()


def test_what_stands_outside_of_the_mask_changes_nothing() -> None:
    log_probs, old, mask, weights = make(0)
    results = []
    for rubbish in (0.0, -math.inf, math.nan):
        policy = log_probs.masked_fill(~mask, rubbish).requires_grad_()
        arguments = {"advantages": weights, "old_log_probs": old.masked_fill(~mask, rubbish), "cliprange": 0.2}
        loss, _ = grpo_microbatch_train_step(policy, mask, 1, "grpo_clip", **arguments)
        results.append((loss.item(), policy.grad.tolist()))
    assert results[0] == results[1] == results[2]


def test_microbatches_add_up_to_the_batch_and_the_old_policy_gets_no_gradient() -> None:
    log_probs, old, mask, weights = make(1, rows=6)
    whole, parts = log_probs.clone().requires_grad_(), log_probs.clone().requires_grad_()
    old.requires_grad_()
    grpo_microbatch_train_step(whole, mask, 1, "grpo_clip", advantages=weights, old_log_probs=old, cliprange=0.2)
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        arguments = {"advantages": weights[part], "old_log_probs": old[part], "cliprange": 0.2}
        grpo_microbatch_train_step(parts[part], mask[part], 3, "grpo_clip", **arguments)
    torch.testing.assert_close(whole.grad, parts.grad)
    assert old.grad is None


def test_on_policy_the_clipped_loss_has_the_gradient_of_reinforce() -> None:
    log_probs, _, mask, weights = make(2)
    first, second = log_probs.clone().requires_grad_(), log_probs.clone().requires_grad_()
    clipped = {"advantages": weights, "old_log_probs": log_probs, "cliprange": 0.2}
    grpo_microbatch_train_step(first, mask, 1, "grpo_clip", **clipped)
    grpo_microbatch_train_step(second, mask, 1, "reinforce_with_baseline", advantages=weights)
    torch.testing.assert_close(first.grad, second.grad)


def test_a_constant_gives_every_token_the_same_weight_the_mean_does_not() -> None:
    mask = torch.tensor([[True, False, False, False], [True, True, True, True]])
    shares = []
    for constant in (None, 4.0):
        policy = torch.zeros(2, 4, requires_grad=True)
        arguments = {"raw_rewards": torch.ones(2, 1), "constant_normalize_factor": constant}
        grpo_microbatch_train_step(policy, mask, 1, "no_baseline", **arguments)
        shares.append((policy.grad[0, 0] / policy.grad[1, 0]).item())
    assert shares == [4.0, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"advantages": torch.ones(3)}, r"advantages has shape \(3,\)"),
        ({"advantages": torch.ones(3, 5)}, r"advantages has shape \(3, 5\)"),
        ({"advantages": None}, "grpo_clip' without advantages"),
        ({"old_log_probs": None}, "without old_log_probs"),
        ({"cliprange": None}, "without cliprange"),
        ({"cliprange": 0.0}, "cliprange is 0.0"),
        ({"old_log_probs": torch.ones(3, 4)}, r"old_log_probs has shape \(3, 4\)"),
        ({"response_mask": torch.ones(3, 4)}, r"response_mask has shape \(3, 4\)"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"constant_normalize_factor": 0.0}, "constant_normalize_factor is 0.0"),
        ({"loss_type": "ppo"}, "loss_type is 'ppo'"),
    ],
)
def test_bad_arguments_are_named(change, words) -> None:
    arguments = {
        "policy_log_probs": torch.zeros(3, 5, requires_grad=True),
        "response_mask": torch.ones(3, 5, dtype=torch.bool),
        "gradient_accumulation_steps": 1,
        "loss_type": "grpo_clip",
        "advantages": torch.ones(3, 1),
        "old_log_probs": torch.zeros(3, 5),
        "cliprange": 0.2,
    }
    with pytest.raises(ConfigError, match=words):
        grpo_microbatch_train_step(**arguments | change)


def test_the_wrapper_gives_what_the_functions_give() -> None:
    log_probs, old, _, weights = make(3)
    naive = compute_naive_policy_gradient_loss(weights, log_probs)
    clip, metadata = compute_grpo_clip_loss(weights, log_probs, old, 0.2)
    plain, _ = compute_policy_gradient_loss(log_probs, "no_baseline", raw_rewards=weights)
    based, _ = compute_policy_gradient_loss(log_probs, "reinforce_with_baseline", advantages=weights)
    assert torch.equal(plain, naive) and torch.equal(based, naive)
    arguments = {"advantages": weights, "old_log_probs": old, "cliprange": 0.2}
    found, facts = compute_policy_gradient_loss(log_probs, "grpo_clip", **arguments)
    assert torch.equal(found, clip) and torch.equal(facts["ratio"], metadata["ratio"])
