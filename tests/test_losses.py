from __future__ import annotations

import importlib.util
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cs336_sft
from cs336_sft.errors import ConfigError
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.losses import (
    masked_mean,
    masked_normalize,
    plain_sft_loss,
    sft_loss,
    sft_microbatch_train_step,
    token_mean_loss,
)
from cs336_sft.records import Example
from cs336_sft.tokenization import collate, count_targets

BAD = [math.nan, math.inf, -math.inf]
numbers = st.floats(-100, 100, width=32)


@st.composite
def masked_rows(draw):
    """Rows of numbers and a mask: [B, T] lists; what is masked may be nan or infinite."""
    batch, time = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    mask = [[draw(st.booleans()) for _ in range(time)] for _ in range(batch)]
    rows = [[draw(numbers) if keep else draw(numbers | st.sampled_from(BAD)) for keep in row] for row in mask]
    return rows, mask


def kept_along(tensor, mask, dim):
    """For each cell of the reduced shape the list of unmasked numbers, by plain indexing."""
    dim = None if dim is None else dim % tensor.dim()
    cells = {}
    for index in product(*map(range, tensor.shape)):
        key = () if dim is None else index[:dim] + index[dim + 1 :]
        cells.setdefault(key, [])
        if mask[index]:
            cells[key].append(tensor[index].item())
    return cells


@pytest.mark.parametrize("dim", [None, 0, 1, 2, -1])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masked_reductions_equal_plain_loops(dim, dtype):
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, 5, generator=generator) > 0.5
    cells = kept_along(tensor, mask, dim)
    assert dim != 0 or not all(cells.values()), "with dim 0 some cells should be masked throughout"
    sums, means = masked_normalize(tensor, mask.to(dtype), 42.0, dim=dim), masked_mean(tensor, mask.to(dtype), dim=dim)
    assert sums.shape == means.shape == (tensor.sum() if dim is None else tensor.sum(dim)).shape
    for key, kept in cells.items():
        assert sums[key].item() == pytest.approx(sum(kept) / 42.0, abs=1e-12)
        if kept:
            assert means[key].item() == pytest.approx(sum(kept) / len(kept), abs=1e-12)
        else:
            assert math.isnan(means[key].item())


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "reduce", [lambda x, m: masked_normalize(x, m, 2.0, dim=1), lambda x, m: masked_mean(x, m, dim=1)]
)
def test_masked_values_leak_into_neither_value_nor_gradient(reduce, bad):
    tensor = torch.tensor([[1.0, bad, 3.0], [4.0, 5.0, bad]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    result = reduce(tensor, mask)
    assert result.tolist() == [2.0, 4.5]
    result.sum().backward()
    assert tensor.grad.tolist() == [[0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]


def test_all_masked_rows():
    tensor = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    mask = torch.tensor([[False, False], [True, True]])
    assert masked_normalize(tensor, mask, 2.0, dim=1).tolist() == [0.0, 4.0]
    means = masked_mean(tensor, mask, dim=1)
    assert math.isnan(means[0].item()) and means[1].item() == 4.0
    means.sum().backward()  # the mean of nothing is nan, but it moves no weight
    assert tensor.grad.tolist() == [[0.0, 0.0], [0.5, 0.5]]
    assert math.isnan(masked_mean(tensor, torch.zeros_like(mask)).item())
    assert masked_normalize(tensor, torch.zeros_like(mask), 2.0).item() == 0.0


def test_a_mask_of_another_shape_is_refused():
    """Broadcasting [T] or [B, 1] would be a silent mistake."""
    tensor = torch.ones(2, 3)
    for mask in (torch.ones(3), torch.ones(2, 1), torch.ones(2, 2), torch.ones(1, 2, 3)):
        for call in (lambda m: masked_normalize(tensor, m, 1.0), lambda m: masked_mean(tensor, m)):
            with pytest.raises(ConfigError, match="same shape"):
                call(mask)


@given(masked_rows(), st.integers(1, 4), st.sampled_from([1.0, 42.0, 0.5]))
@settings(deadline=None)
def test_handout_step_equals_a_double_loop(data, steps, constant):
    rows, mask = data
    log_probs = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    loss, metadata = sft_microbatch_train_step(log_probs, torch.tensor(mask), steps, constant)
    expected = total = count = 0.0
    for row, keeps in zip(rows, mask, strict=True):
        for value, keep in zip(row, keeps, strict=True):
            if keep:
                expected -= value / constant / len(rows) / steps
                total -= value
                count += 1
    assert loss.shape == () and not loss.requires_grad
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    weight = -1 / (constant * len(rows) * steps)
    assert torch.allclose(log_probs.grad, torch.tensor(mask) * torch.tensor(weight, dtype=torch.float64), atol=1e-15)
    assert metadata["response_tokens"].item() == count
    mean = metadata["mean_token_nll"].item()
    assert mean == pytest.approx(total / count, abs=1e-9) if count else math.isnan(mean)
    assert not any(value.requires_grad for value in metadata.values())


def test_handout_step_on_the_assignments_inputs():
    """The 2025 assignment's test inputs: seed 42, [2, 10], mask rand > 0.5, two accumulation steps."""
    torch.manual_seed(42)
    log_probs = torch.randn(2, 10, requires_grad=True)
    torch.manual_seed(42)
    mask = torch.rand(2, 10) > 0.5
    for constant in (1.0, 42.0):
        log_probs.grad = None
        loss, _ = sft_microbatch_train_step(log_probs, mask, 2, constant)
        per_example = [
            sum(-x for x, m in zip(r, k, strict=True) if m) for r, k in zip(log_probs.tolist(), mask, strict=True)
        ]
        assert loss.item() == pytest.approx(sum(per_example) / 2 / constant / 2, abs=1e-5)
        assert torch.allclose(log_probs.grad, torch.where(mask, -1 / (4 * constant), 0.0))


def test_handout_step_accumulates_gradients():
    weight = torch.tensor(2.0, requires_grad=True)
    for _ in range(3):
        sft_microbatch_train_step(weight * torch.ones(1, 2), torch.ones(1, 2), gradient_accumulation_steps=3)
    assert weight.grad.item() == pytest.approx(-2.0)


def test_handout_step_refuses_bad_arguments():
    log_probs, mask = torch.ones(1, 2, requires_grad=True), torch.ones(1, 2)
    for arguments, field in (
        ((log_probs[0], mask[0], 1), "policy_log_probs"),
        ((log_probs[None], mask[None], 1), "policy_log_probs"),
        ((log_probs, mask, 0), "gradient_accumulation_steps"),
        ((log_probs, mask, 1, 0.0), "normalize_constant"),
        ((log_probs, mask, 1, math.nan), "normalize_constant"),
        ((log_probs, mask[:, :1], 1), "mask has shape"),
    ):
        with pytest.raises(ConfigError, match=field):
            sft_microbatch_train_step(*arguments)
    assert log_probs.grad is None


@given(masked_rows(), st.integers(1, 50))
@settings(deadline=None)
def test_token_mean_loss_equals_a_double_loop(data, total):
    rows, mask = data
    log_probs = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    loss = token_mean_loss(log_probs, torch.tensor(mask), total)
    expected = (
        -sum(x for row, keeps in zip(rows, mask, strict=True) for x, k in zip(row, keeps, strict=True) if k) / total
    )
    assert loss.shape == () and loss.item() == pytest.approx(expected, abs=1e-9)
    loss.backward()
    assert log_probs.grad.tolist() == [[-1 / total if keep else 0.0 for keep in row] for row in mask]


def test_token_mean_loss_takes_a_tensor_total_and_refuses_zero():
    log_probs, mask = -torch.ones(1, 4), torch.ones(1, 4)
    assert token_mean_loss(log_probs, mask, torch.tensor(8)).item() == 0.5
    for total in (0, torch.tensor(0)):
        with pytest.raises(ConfigError, match="total_target_tokens is 0"):
            token_mean_loss(log_probs, mask, total)


def test_what_the_three_normalisations_make_a_token_weigh():
    """The numbers of the module's head: responses of 2 and 8 tokens, one microbatch each."""

    def weights(step):
        microbatches = [torch.zeros(1, length, requires_grad=True) for length in (2, 8)]
        for log_probs in microbatches:
            step(log_probs, torch.ones_like(log_probs))
        return [log_probs.grad[0, 0].item() for log_probs in microbatches]

    assert weights(lambda x, m: sft_microbatch_train_step(x, m, 2)) == [-0.5, -0.5]
    assert weights(lambda x, m: (-masked_mean(x, m) / 2).backward()) == [-0.25, -0.0625]
    assert weights(lambda x, m: token_mean_loss(x, m, 10).backward()) == pytest.approx([-0.1, -0.1])


# Unequal lengths; an example without a response and one without a prompt; ids that equal the padding (0).
SEQUENCES = [
    Example((5, 6, 7), (8, 9, 0)),
    Example((5,), (10, 11, 12, 13, 14, 15, 16, 17, 18, 0)),
    Example((20, 21, 22, 23, 24, 25), (0,)),
    Example((30, 31), ()),
    Example((), (40, 41, 42)),
    Example((50, 51, 52, 0), (53, 54, 55, 56, 0)),
    Example((60,), (61, 0)),
]


def gradients(model, microbatches, loss_of):
    model.zero_grad()
    losses = []
    for sequences in microbatches:
        batch = collate(sequences, pad_id=0)
        log_probs = get_response_log_probs(model, batch.input_ids, batch.labels)["log_probs"]
        losses.append(loss_of(log_probs, batch.response_mask))
        if losses[-1].requires_grad:  # the handout's step has already gone back
            losses[-1].backward()
    return sum(loss.item() for loss in losses), torch.cat([p.grad.flatten() for p in model.parameters()])


def cut(sizes):
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [SEQUENCES[start : start + size] for start, size in zip(starts, sizes, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(1, 6), (3, 1, 3), (2, 2, 2, 1), (1,) * 7])
def test_gradients_of_microbatches_equal_one_big_batch(random_model, dtype, sizes):
    model = random_model.to(dtype)
    total = count_targets(SEQUENCES)

    def loss_of(log_probs, mask):
        return token_mean_loss(log_probs, mask, total)

    loss, expected = gradients(model, [SEQUENCES], loss_of)
    cut_loss, got = gradients(model, cut(sizes), loss_of)
    assert expected.abs().max() > 0.01
    assert cut_loss == pytest.approx(loss, abs=1e-6)
    assert (got - expected).abs().max() < (1e-6 if dtype == torch.float32 else 1e-13)


def test_one_big_batch_has_the_mean_loss_of_its_tokens(random_model):
    """So the big batch above isn't wrong in the same way: the mean of cross-entropies, sequence by sequence."""
    model = random_model.double()
    nll = []
    for example in SEQUENCES:
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        log_probs = torch.log_softmax(model(ids).logits[0], dim=-1)
        first = max(len(example.prompt_ids), 1)
        nll += [-log_probs[i - 1, ids[0, i]] for i in range(first, ids.shape[1])]
    total = count_targets(SEQUENCES)
    assert len(nll) == total == 23
    loss, got = gradients(model, [SEQUENCES], lambda x, m: token_mean_loss(x, m, total))
    mean = sum(nll) / total
    model.zero_grad()
    mean.backward()
    assert loss == pytest.approx(mean.item(), abs=1e-12)
    assert torch.allclose(got, torch.cat([p.grad.flatten() for p in model.parameters()]), atol=1e-12)


def test_the_other_normalisations_depend_on_the_cut(random_model):
    """The test above can fail: with these two the same cut changes the gradient by far more than rounding."""
    model = random_model.double()
    sizes = (1, 6)

    def handout(steps):
        return lambda log_probs, mask: sft_microbatch_train_step(log_probs, mask, steps)[0]

    def per_microbatch(steps):
        return lambda log_probs, mask: -masked_mean(log_probs, mask) / steps

    for normalisation in (handout, per_microbatch):
        _, one = gradients(model, [SEQUENCES], normalisation(1))
        _, two = gradients(model, cut(sizes), normalisation(len(sizes)))
        assert (one - two).abs().max() > 0.01 * one.abs().max()


def solution(name):
    path = Path(cs336_sft.__file__).resolve().parents[1] / "solutions" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loss_that_trains_is_the_plain_one_and_that_of_the_exercises(random_model):
    """Value and gradient of one microbatch, in a step that counts 50 target tokens."""
    model, divisor = random_model.double(), 50
    batch = collate(SEQUENCES, pad_id=0)
    ex04, ex10 = solution("ex04_sft_microbatch_train_step"), solution("ex10_gradient_accumulation")

    def of_exercise_4(log_probs, mask):  # the mean over B sequences, so its divisor is 50 / B
        return ex04.sft_microbatch_train_step(log_probs, mask, 1, divisor / len(mask))[0]

    def of_exercise_10(log_probs, mask):
        return ex10.token_mean_loss(log_probs, mask, divisor)

    found = [gradients(model, [SEQUENCES], of) for of in (of_exercise_4, of_exercise_10)]
    for of in (lambda: sft_loss(model, batch, divisor)[0], lambda: plain_sft_loss(model, batch, divisor)):
        model.zero_grad()
        loss = of()
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    values, all_gradients = zip(*found, strict=True)
    assert values[0] > 1 and values == pytest.approx([values[0]] * 4, rel=1e-12)
    for gradient in all_gradients:
        assert (gradient - all_gradients[0]).abs().max() < 1e-12 < all_gradients[0].abs().max()


@pytest.mark.parametrize("sequences", [None, [Example((1, 2, 3), ())], [Example((7,), (8,))]])
def test_the_loss_that_trains_returns_the_log_probs_of_the_response(random_model, sequences):
    batch = collate(SEQUENCES if sequences is None else sequences, pad_id=0)
    plain = get_response_log_probs(random_model, batch.input_ids, batch.labels)["log_probs"][batch.response_mask]
    loss, log_probs = sft_loss(random_model, batch, 4.0)
    torch.testing.assert_close(log_probs, plain.detach())
    torch.testing.assert_close(loss, -log_probs.sum() / 4)
    assert not log_probs.requires_grad
