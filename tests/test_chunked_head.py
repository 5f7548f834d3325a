"""Log-probabilities and losses straight from the hidden states, against the formula over full logits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.logprobs import chunked_log_probs, get_response_log_probs
from cs336_sft.losses import sft_loss
from cs336_sft.model import chunked_head, triton_head
from cs336_sft.model.chunked_head import UsedTwiceError, head_log_probs, one_pass_loss
from cs336_sft.model.memory_measurement import MemoryTracker
from cs336_sft.model.output_head import OutputHead
from cs336_sft.model.products import add_product, product

HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "factor": {"scale": 0.3},
    "cap": {"cap": 2.0},
    "bias, factor and cap": {"bias": True, "scale": -1.7, "cap": 3.0},
}


def problem(rows=7, width=5, vocabulary=11, *, bias=False, scale=1.0, cap=None, dtype=torch.float64, std=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(width, vocabulary, bias=bias, dtype=dtype)
    for parameter in module.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * std).to(dtype)
    hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    return SimpleNamespace(
        hidden=hidden,
        head=OutputHead(module, scale, cap),
        labels=labels,
        weights=torch.randn(rows, generator=generator, dtype=torch.float64),
        inputs=[hidden, *module.parameters()],
    )


def with_parameters(head: OutputHead, weight, bias=None) -> OutputHead:
    """The same head over tensors that gradcheck may shift (a Linear takes parameters only)."""
    linear = nn.Linear(1, 1)
    linear.__dict__["weight"], linear.__dict__["bias"] = weight, bias
    linear._parameters.clear()
    linear.register_parameter("of_gradcheck", nn.Parameter(torch.zeros(())))  # so that it counts as trained
    return OutputHead(linear, head.scale, head.cap)


def by_full_logits(hidden, head, labels):
    weight = head.module.weight.double()
    logits = hidden.double() @ weight.T
    if head.module.bias is not None:
        logits = logits + head.module.bias.double()
    logits = logits * head.scale
    if head.cap is not None:
        logits = head.cap * (logits / head.cap).tanh()
    log_softmax = logits.log_softmax(dim=-1)
    entropy = -(log_softmax.exp() * log_softmax).sum(dim=-1)
    return log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1), entropy.detach()


def close(a, b, tolerance=1e-10):
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["log_probs", "loss"])
def test_gradcheck_of_hidden_weight_and_bias(name, kind):
    case = problem(**HEADS[name], std=0.7)

    def run(hidden, *parameters):
        head = with_parameters(case.head, *parameters)
        if kind == "log_probs":
            return head_log_probs(hidden, head, case.labels, chunk_size=3)[0]
        return one_pass_loss(hidden, head, case.labels, case.weights, chunk_size=3)[0]

    class Fresh(torch.autograd.Function):
        """gradcheck goes back twice through one graph; here each time is the first of a graph of its own."""

        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return run(*inputs).detach()

        @staticmethod
        def backward(ctx, gradient):
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            with torch.enable_grad():
                return torch.autograd.grad(run(*inputs), inputs, gradient)

    assert len(case.inputs) == (3 if "bias" in name else 2)
    assert torch.autograd.gradcheck(run if kind == "log_probs" else Fresh.apply, case.inputs)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("with_entropy", [False, True])
def test_values_and_gradients_equal_those_of_full_logits(name, with_entropy):
    case = problem(rows=9, vocabulary=30, **HEADS[name])
    expected, expected_entropy = by_full_logits(case.hidden, case.head, case.labels)
    expected_loss = -(case.weights * expected).sum()
    wanted = torch.autograd.grad(expected_loss, case.inputs)
    arguments = case.hidden, case.head, case.labels
    log_probs, entropy = head_log_probs(*arguments, with_entropy=with_entropy, chunk_size=4)
    loss, detached, loss_entropy = one_pass_loss(*arguments, case.weights, with_entropy=with_entropy, chunk_size=4)
    assert close(log_probs, expected) and close(detached, expected) and close(loss, expected_loss)
    for found in (entropy, loss_entropy):
        assert close(found, expected_entropy) and not found.requires_grad if with_entropy else found is None
    assert not detached.requires_grad
    for total in (-(case.weights * log_probs).sum(), loss):
        for found, gradient in zip(torch.autograd.grad(total, case.inputs), wanted, strict=True):
            assert close(found, gradient)


def test_the_gradient_that_comes_in_is_multiplied():
    case = problem(bias=True)
    loss, *_ = one_pass_loss(case.hidden, case.head, case.labels, case.weights)
    wanted = torch.autograd.grad(loss, case.inputs)
    loss, *_ = one_pass_loss(case.hidden, case.head, case.labels, case.weights)
    for found, gradient in zip(torch.autograd.grad(-2.5 * loss, case.inputs), wanted, strict=True):
        assert close(found, -2.5 * gradient)


def test_one_number_for_all_weights_is_that_number_for_each():
    case = problem()
    one, *_ = one_pass_loss(case.hidden, case.head, case.labels, 0.25)
    each, *_ = one_pass_loss(case.hidden, case.head, case.labels, torch.full((7,), 0.25))
    expected = -0.25 * by_full_logits(case.hidden, case.head, case.labels)[0].sum()
    assert torch.equal(one, each) and close(one, expected)


@given(
    rows=st.integers(0, 13),
    chunk=st.integers(1, 15),
    other=st.integers(1, 15),
    name=st.sampled_from(sorted(HEADS)),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_the_size_of_the_chunks_changes_nothing(rows, chunk, other, name, seed):
    case = problem(rows, **HEADS[name], seed=seed)

    def run(size):
        log_probs, entropy = head_log_probs(case.hidden, case.head, case.labels, with_entropy=True, chunk_size=size)
        loss, again, entropy_again = one_pass_loss(
            case.hidden, case.head, case.labels, case.weights, with_entropy=True, chunk_size=size
        )
        total = (log_probs * case.weights).sum()
        gradients = torch.autograd.grad(total, case.inputs) + torch.autograd.grad(loss, case.inputs)
        return log_probs, entropy, loss, again, entropy_again, *gradients

    for a, b in zip(run(chunk), run(other), strict=True):
        assert a.shape == b.shape and close(a, b, 1e-12)


@given(st.integers(1, 9), st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_the_plain_form_for_reading_gives_the_same(rows, chunk):
    case = problem(rows)
    plain = chunked_log_probs(case.hidden, case.head.module.weight, case.labels, chunk)
    log_probs, entropy = head_log_probs(case.hidden, case.head, case.labels, with_entropy=True)
    assert close(plain["log_probs"], log_probs) and close(plain["token_entropy"], entropy)
    wanted = torch.autograd.grad((log_probs * case.weights).sum(), case.inputs)
    found = torch.autograd.grad((plain["log_probs"] * case.weights).sum(), case.inputs)
    assert all(close(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("labels, chunk", [((3,), 0), ((4,), 2)])
def test_the_plain_form_refuses_what_does_not_fit(labels, chunk):
    with pytest.raises(ConfigError):
        chunked_log_probs(torch.zeros(3, 2), torch.zeros(5, 2), torch.zeros(labels, dtype=torch.long), chunk)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["log_probs", "loss"])
def test_a_second_derivative_is_refused(kind):
    case = problem()
    if kind == "log_probs":
        total = head_log_probs(case.hidden, case.head, case.labels)[0].square().sum()
    else:
        total = one_pass_loss(case.hidden, case.head, case.labels, case.weights)[0].square()
    (gradient,) = torch.autograd.grad(total, case.hidden, create_graph=True)
    assert gradient.requires_grad
    with pytest.raises((RuntimeError, UsedTwiceError), match="once_differentiable|already taken"):
        gradient.sum().backward()


def test_a_second_backward_of_the_one_pass_loss_is_refused():
    case = problem()
    loss, *_ = one_pass_loss(case.hidden, case.head, case.labels, case.weights)
    loss.backward(retain_graph=True)
    first = case.hidden.grad.clone()
    with pytest.raises(UsedTwiceError, match="head_log_probs"):
        loss.backward()
    assert torch.equal(case.hidden.grad, first)


def test_log_probs_may_be_gone_back_through_again():
    case = problem()
    log_probs, _ = head_log_probs(case.hidden, case.head, case.labels)
    first = torch.autograd.grad(log_probs.sum(), case.inputs, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(log_probs.sum(), case.inputs), strict=True):
        assert torch.equal(a, b)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["log_probs", "loss"])
@pytest.mark.parametrize("label", [11, -1])
def test_a_label_outside_of_the_vocabulary_is_refused(kind, label):
    case = problem()
    case.labels[3] = label
    with pytest.raises(DataError, match=f"a label is {label}, the output head has 11 tokens.*tokenizer"):
        if kind == "log_probs":
            head_log_probs(case.hidden, case.head, case.labels)
        else:
            one_pass_loss(case.hidden, case.head, case.labels, case.weights)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("ignored", [[2, 5], list(range(7))])
def test_a_label_of_minus_100_counts_nothing(linear, ignored):
    case = problem(bias=True)
    if not linear:
        case.head = OutputHead(nn.Sequential(case.head.module))
    kept = [row for row in range(7) if row not in ignored]
    expected, expected_entropy = by_full_logits(case.hidden, problem(bias=True).head, case.labels)
    expected[ignored] = expected_entropy[ignored] = 0.0
    masked = case.labels.clone()
    masked[ignored] = -100
    log_probs, entropy = head_log_probs(case.hidden, case.head, masked, with_entropy=True, chunk_size=2)
    loss, again, entropy_again = one_pass_loss(
        case.hidden, case.head, masked, case.weights, with_entropy=True, chunk_size=2
    )
    assert close(log_probs, expected) and close(again, expected)
    assert close(entropy, expected_entropy) and close(entropy_again, expected_entropy)
    assert close(loss, -(case.weights * expected).sum())
    if linear:
        wanted = torch.autograd.grad(
            -(case.weights[kept] * by_full_logits(case.hidden[kept], case.head, case.labels[kept])[0]).sum(),
            case.inputs,
        )
        for found, gradient in zip(torch.autograd.grad(loss, case.inputs), wanted, strict=True):
            assert close(found, gradient)


# --- which gradients --------------------------------------------------------------------------------------------------


def test_only_the_gradients_that_are_wanted_are_made():
    for frozen in (0, 1):
        case = problem()
        case.inputs[frozen].requires_grad_(False)
        loss, *_ = one_pass_loss(case.hidden, case.head, case.labels, case.weights)
        made = [g is not None for g in loss.grad_fn.gradients]
        assert made == [frozen == 1, frozen == 0, False]
        loss.backward()
        from_loss = case.inputs[1 - frozen].grad.clone()
        case.inputs[1 - frozen].grad = None
        (-case.weights * head_log_probs(case.hidden, case.head, case.labels)[0]).sum().backward()
        assert close(from_loss, case.inputs[1 - frozen].grad)
        assert case.inputs[frozen].grad is None


def test_without_gradient_mode_the_loss_is_a_value_only():
    case = problem()
    with torch.no_grad():
        value, log_probs, _ = one_pass_loss(case.hidden, case.head, case.labels, case.weights)
    assert not value.requires_grad
    assert close(value, one_pass_loss(case.hidden, case.head, case.labels, case.weights)[0])


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e4, 1e38])
def test_enormous_logits_stay_finite(size):
    """exp of them overflows, and `logit - logsumexp` would lose the 1 that tells the two tokens apart."""
    head = OutputHead(nn.Linear(1, 3, bias=True))
    head.module.weight.data.zero_()
    head.module.bias.data = torch.tensor([size, size - 1.0, -size])
    hidden = torch.ones(2, 1, requires_grad=True)
    log_probs, entropy = head_log_probs(hidden, head, torch.tensor([1, 2]), with_entropy=True)
    gap = float(torch.tensor(size)) - float(torch.tensor(size - 1.0))  # 1, or 0 where float32 has no such steps
    assert log_probs[0].item() == pytest.approx(-gap - math.log1p(math.exp(-gap)), abs=1e-6)
    assert log_probs.isfinite().all() and entropy.isfinite().all()
    loss, *_ = one_pass_loss(hidden, head, torch.tensor([1, 2]), 1.0, with_entropy=True)
    loss.backward()
    assert head.module.bias.grad.isfinite().all()
    assert head.module.bias.grad[2].item() == pytest.approx(-1.0)


def test_a_forbidden_token_has_probability_zero_and_spoils_nothing():
    head = OutputHead(nn.Linear(1, 3, bias=True))
    head.module.bias.data = torch.tensor([0.0, 0.0, -math.inf])
    head.module.weight.data.zero_()
    log_probs, entropy = head_log_probs(torch.ones(1, 1), head, torch.tensor([0]), with_entropy=True)
    assert log_probs.item() == entropy.neg().item() == pytest.approx(-math.log(2))
    loss, *_ = one_pass_loss(torch.ones(1, 1), head, torch.tensor([0]), 1.0)
    loss.backward()
    assert head.module.bias.grad.tolist() == pytest.approx([-0.5, 0.5, 0.0])


@pytest.mark.parametrize("other", [1e-3, 1e-9])
def test_the_gradient_of_a_sure_token_is_right_to_float32s_precision(other):
    head = OutputHead(nn.Linear(1, 2, bias=True))
    head.module.weight.data.zero_()
    head.module.bias.data = torch.tensor([0.0, math.log(other)])
    p = other / (1 + other)
    for total in (
        one_pass_loss(torch.ones(1, 1), head, torch.tensor([0]), 1.0)[0],
        -head_log_probs(torch.ones(1, 1), head, torch.tensor([0]))[0].sum(),
    ):
        found = torch.autograd.grad(total, head.module.bias)[0].tolist()
        assert found[0] == pytest.approx(-p, abs=1.2e-7)
        assert found[1] == pytest.approx(p, rel=1e-5)


def test_half_precision_operands_make_float32_logits():
    """Rounding the logits to bfloat16 would be off by a hundred times more."""
    case = problem(20, 64, 500, dtype=torch.bfloat16, std=0.5)
    expected, expected_entropy = by_full_logits(case.hidden, case.head, case.labels)
    log_probs, entropy = head_log_probs(case.hidden, case.head, case.labels, with_entropy=True, chunk_size=6)
    assert log_probs.dtype == entropy.dtype == torch.float32
    assert close(log_probs, expected, 1e-5) and close(entropy, expected_entropy, 1e-5)
    wanted = torch.autograd.grad(expected.sum(), case.inputs)
    by_loss = torch.autograd.grad(one_pass_loss(case.hidden, case.head, case.labels, -1.0)[0], case.inputs)
    for found, by_one, gradient in zip(torch.autograd.grad(log_probs.sum(), case.inputs), by_loss, wanted, strict=True):
        assert found.dtype == torch.bfloat16
        norm = gradient.double().norm()
        assert (found.double() - gradient.double()).norm() < 0.01 * norm
        assert (by_one.double() - gradient.double()).norm() < 0.01 * norm


def test_the_gradient_of_the_weight_is_summed_in_float32():
    """Each of 4,096 one-row chunks adds 2^-9 of the first: in bfloat16 the sum would stand still."""
    rows = 4096
    head = OutputHead(nn.Linear(1, 2, bias=False, dtype=torch.bfloat16))
    head.module.weight.data.zero_()
    loss, *_ = one_pass_loss(
        torch.ones(rows, 1, dtype=torch.bfloat16), head, torch.zeros(rows, dtype=torch.long), 1.0, chunk_size=1
    )
    loss.backward()
    assert head.module.weight.grad.flatten().tolist() == [-rows / 2, rows / 2]


def test_products_in_blocks_equal_those_in_one():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 8200, generator=generator).bfloat16()
    b = torch.randn(8200, 2, generator=generator).bfloat16()
    assert torch.allclose(product(a, b), a.float() @ b.float(), atol=1e-3)
    total = torch.ones(8200, 8200 // 4100, dtype=torch.float32)
    expected = total + b.float() @ torch.eye(2)
    add_product(total, b, torch.eye(2).bfloat16())
    assert torch.allclose(total, expected)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["log_probs", "loss"])
def test_the_logits_of_more_than_a_chunk_never_exist(kind):
    case = problem(256, 4, 1000, dtype=torch.float32)
    chunk, full = 16 * 1000 * 4, 256 * 1000 * 4
    with MemoryTracker() as tracker:
        if kind == "log_probs":
            found, entropy = head_log_probs(case.hidden, case.head, case.labels, with_entropy=True, chunk_size=16)
            found.sum().backward()
        else:
            loss, found, entropy = one_pass_loss(
                case.hidden, case.head, case.labels, 1.0, with_entropy=True, chunk_size=16
            )
            loss.backward()
    gradients = case.hidden.grad.nbytes + case.head.module.weight.grad.nbytes
    assert tracker.largest <= chunk  # and the test looks: there were such chunks
    assert tracker.largest == chunk
    assert tracker.peak - gradients < 4 * chunk < full / 3


def test_no_tensor_of_vocabulary_size_per_position_in_model_or_step(random_model):
    from cs336_sft.records import Example
    from cs336_sft.tokenization import collate

    vocabulary = random_model.config.vocab_size
    batch = collate([Example(tuple(range(1, 60)), tuple(range(60, 160)))] * 4, pad_id=0)
    full = batch.input_ids.numel() * vocabulary * 4
    with MemoryTracker() as tracker:
        found = get_response_log_probs(random_model, batch.input_ids, batch.labels, True)
        found["log_probs"].sum().backward()
        sft_loss(random_model, batch, 1.0)[0].backward()
    assert tracker.largest < full / 2
    random_model.zero_grad()
    with MemoryTracker() as tracker:
        random_model(batch.input_ids)
    assert tracker.largest >= full  # the model's own logits are what the tracker would have seen


def test_only_the_positions_of_the_response_go_through_the_head(random_model, monkeypatch):
    ids = torch.arange(1, 13).view(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 1, 0, 0, 0, 1]])
    seen = []

    def spy(hidden, *arguments, **settings):
        seen.append(len(hidden))
        return head_log_probs(hidden, *arguments, **settings)

    monkeypatch.setattr("cs336_sft.logprobs.head_log_probs", spy)
    masked = get_response_log_probs(random_model, ids, ids, True, response_mask=mask)
    everywhere = get_response_log_probs(random_model, ids, ids, True)
    assert seen == [4, 12]
    for name, value in masked.items():
        assert torch.allclose(value, everywhere[name] * mask, atol=1e-6)
    nothing = get_response_log_probs(random_model, ids, ids, True, response_mask=torch.zeros_like(mask))
    assert all(torch.equal(value, torch.zeros(2, 6)) for value in nothing.values())
    nothing["log_probs"].sum().backward()
    assert random_model.model.embed_tokens.weight.grad.abs().sum() == 0
    with pytest.raises(ConfigError, match="response_mask"):
        get_response_log_probs(random_model, ids, ids, response_mask=mask[:, 1:])


def test_loss_of_a_batch_without_a_response_is_zero_and_can_be_gone_back_through(random_model):
    from cs336_sft.records import Example
    from cs336_sft.tokenization import collate

    batch = collate([Example((5, 6, 7), ())], pad_id=0)
    loss, log_probs = sft_loss(random_model, batch, 1.0)
    loss.backward()
    assert loss.item() == 0.0 and log_probs.shape == (0,)


def test_the_loss_under_autocast_rounds_operands_and_not_gradients(random_model):
    """float32 parameters get float32 gradients that are no bfloat16 numbers."""
    from cs336_sft.records import Example
    from cs336_sft.tokenization import collate

    batch = collate([Example((5, 6, 7), (8, 9, 0))], pad_id=0)
    plain = sft_loss(random_model, batch, 1.0)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = sft_loss(random_model, batch, 1.0)
    loss.backward()
    gradient = random_model.lm_head.weight.grad
    assert loss.dtype == gradient.dtype == torch.float32 and not torch.equal(gradient, gradient.bfloat16().float())
    assert loss.item() == pytest.approx(plain, rel=0.02)


# --- no waiting for the device ----------------------------------------------------------------------------------------


def test_the_loss_reads_nothing_back_from_the_models_device(random_model, monkeypatch):
    """Tensors on the device ``meta`` have no values: every read of one, which on a GPU would wait, raises."""
    from cs336_sft.model import output_head
    from cs336_sft.records import Example
    from cs336_sft.tokenization import collate

    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)  # it does not know the device
    checked = []
    for module, name in ((chunked_head, "_kept"), (output_head, "check_ids")):
        check = getattr(module, name)

        def spy(*arguments, check=check, name=name):
            checked.append((name, *(x.device.type for x in arguments if isinstance(x, torch.Tensor))))
            return check(*arguments)

        monkeypatch.setattr(module, name, spy)
    model = random_model.to("meta")
    batch = collate([Example((5, 6, 7), (8, 9, 0)), Example((5,), (6,))], pad_id=0)
    loss, log_probs = sft_loss(model, batch, 4.0)
    loss.backward()
    assert log_probs.shape == (4,) and model.lm_head.weight.grad.is_meta
    assert checked == [("check_ids", "cpu"), ("_kept", "cpu")]  # once each, before anything moves
    batch.labels[0, 2] = 10**6
    with pytest.raises(DataError, match="a label is 1000000"):
        sft_loss(model, batch, 4.0)
    batch.input_ids[0, 0] = 10**6
    with pytest.raises(DataError, match="input_ids holds 1000000"):
        sft_loss(model, batch, 4.0)


# --- the Triton path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sure", [False, True], ids=["labels as they come", "very unlikely labels"])
def test_statistics_of_tiles_give_the_row(sure):
    """What the kernel writes, made by hand: per tile a reference, the sum of u without the label, and of u log u."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 12, generator=generator, dtype=torch.float64) * (60.0 if sure else 2.0)
    labels = logits.argmin(dim=-1) if sure else torch.tensor([0, 3, 5, 7, 11])
    z = logits - logits.gather(-1, labels.unsqueeze(-1))
    z.scatter_(-1, labels.unsqueeze(-1), -1e30)
    shift, total, weighted = [], [], []
    for tile in z.split(4, dim=-1):
        top = tile.amax(dim=-1)
        shift.append(torch.where(top > 30, top, 0.0))
        v = tile - shift[-1].unsqueeze(-1)
        total.append(v.exp().sum(-1))
        weighted.append((v.exp() * v).sum(-1))
    sums = torch.stack([torch.stack(shift), torch.stack(total), torch.stack(weighted)])
    _, _, _, log_probs, entropy = triton_head.row_statistics(sums)
    log_softmax = logits.log_softmax(-1)
    assert close(log_probs, log_softmax.gather(-1, labels.unsqueeze(-1)).squeeze(-1))
    assert close(entropy, -(log_softmax.exp() * log_softmax).sum(-1))
    assert bool((sums[0] > 0).any()) == sure


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with bfloat16 and Triton")
@pytest.mark.parametrize("rows, vocabulary", [(1, 256), (130, 1000), (3333, 5003)])
@pytest.mark.parametrize("scale, std", [(1.0, 0.5), (0.3, 0.5), (1.0, 8.0)], ids=["plain", "factor", "unlikely labels"])
def test_the_triton_path_equals_the_plain_one(rows, vocabulary, scale, std, monkeypatch):
    case = problem(rows, 128, vocabulary, dtype=torch.bfloat16, scale=scale, std=std)
    module = nn.Linear(128, vocabulary, bias=False, dtype=torch.bfloat16, device="cuda")
    module.weight.data = case.head.module.weight.data.cuda()
    head, labels = OutputHead(module, scale), case.labels.cuda()
    hidden = case.hidden.detach().cuda().requires_grad_()
    inputs = [hidden, module.weight]
    assert triton_head.usable_tiles(hidden, module.weight)  # so that it is the kernel that is tested

    def run():
        log_probs, entropy = head_log_probs(hidden, head, labels, with_entropy=True)
        loss, again, entropy_again = one_pass_loss(hidden, head, labels, 1 / rows, with_entropy=True)
        gradients = torch.autograd.grad(log_probs.mean(), inputs), torch.autograd.grad(loss, inputs)
        return (log_probs, entropy, again, entropy_again), gradients

    values, (recomputed, one_pass) = run()
    expected, expected_entropy = by_full_logits(hidden, head, labels)
    wanted = torch.autograd.grad(expected.mean(), inputs)
    for found, exact in zip(values, (expected, expected_entropy) * 2, strict=True):
        assert (found.double() - exact).norm() < 1e-4 * exact.norm()
    monkeypatch.setenv("CS336_TRITON", "0")
    _, (plain, _) = run()
    for r, o, p, exact in zip(recomputed, one_pass, plain, wanted, strict=True):
        limit = 2 * (p.double() - exact.double()).norm() + 1e-3 * exact.double().norm()
        assert (r.double() - exact.double()).norm() < limit
        assert (-o.double() - exact.double()).norm() < limit
