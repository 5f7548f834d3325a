from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft import logprobs
from cs336_sft.errors import ConfigError
from cs336_sft.logprobs import chunked_log_probs, compute_entropy, get_response_log_probs
from cs336_sft.records import Example
from cs336_sft.tokenization import collate

SEQUENCES = [
    Example((5, 6, 7), (8, 9, 0)),
    Example((5,), (10, 11, 12, 13, 14, 15, 16, 0)),
    Example((20, 21, 22, 23, 24, 25), (0,)),
]


def distribution(logits: list[float]) -> list[float]:
    """Probabilities in float64 by the plain formula, the maximum taken off so that exp can't overflow."""
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / math.fsum(weights) for w in weights]


def entropy_by_hand(logits: list[float]) -> float:
    return -math.fsum(p * math.log(p) for p in distribution(logits) if p > 0)


class Fixed(torch.nn.Module):
    """A model that gives the logits it was made with, and takes nothing but ids."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.logits)


entries = st.floats(-30, 30, width=32) | st.just(-math.inf)
rows = st.lists(entries, min_size=1, max_size=12).filter(lambda row: max(row) > -math.inf)


@given(rows, st.sampled_from([0.0, 1e4, -1e4, 3e5]))
@settings(deadline=None)
def test_entropy_equals_float64(row, shift):
    """The shift makes logits so large that exp of them overflows; the entropy must not notice."""
    logits = torch.tensor(row, dtype=torch.float32) + shift
    entropy = compute_entropy(logits)
    assert entropy.shape == () and entropy.dtype == torch.float32
    assert entropy.item() == pytest.approx(entropy_by_hand(logits.tolist()), abs=2e-6, rel=2e-6)


@given(rows)
@settings(deadline=None)
def test_entropy_gradient_equals_the_formula(row):
    """dH/dz_v = -p_v (log p_v + H), and 0 for a token that is forbidden."""
    logits = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    compute_entropy(logits).backward()
    entropy = entropy_by_hand(row)
    expected = [-p * (math.log(p) + entropy) if p > 0 else 0.0 for p in distribution(row)]
    assert logits.grad.tolist() == pytest.approx(expected, abs=1e-12)


def test_entropy_of_known_distributions():
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [1e4, -1e4, -1e4, -1e4], [1e4, 1e4, -1e4, -math.inf], [5.0] + [-math.inf] * 3],
        requires_grad=True,
    )
    entropy = compute_entropy(logits)
    assert entropy.tolist() == pytest.approx([math.log(4), 0.0, math.log(2), 0.0], abs=1e-6)
    entropy.sum().backward()
    assert logits.grad.isfinite().all()
    assert str(entropy[1].item()) == "0.0"  # not -0.0, which looks like a slip in a table


def test_entropy_shapes_and_dtypes():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    entropy = compute_entropy(logits)
    assert entropy.shape == (2, 3)
    assert entropy[1, 2].item() == pytest.approx(entropy_by_hand(logits[1, 2].tolist()), abs=1e-6)
    assert compute_entropy(logits.double()).dtype == torch.float64
    for dtype in (torch.bfloat16, torch.float16):
        half = logits.to(dtype)
        assert compute_entropy(half).dtype == torch.float32
        assert torch.equal(compute_entropy(half), compute_entropy(half.float()))


def test_entropy_passes_gradcheck():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(compute_entropy, logits)


def test_log_probs_and_entropy_equal_plain_loops(random_model):
    batch = collate(SEQUENCES, pad_id=0)
    result = get_response_log_probs(random_model, batch.input_ids, batch.labels, return_token_entropy=True)
    assert set(result) == {"log_probs", "token_entropy"}
    logits = random_model(batch.input_ids).logits.tolist()
    for b, row in enumerate(batch.labels.tolist()):
        for t, label in enumerate(row):
            expected = math.log(distribution(logits[b][t])[label])
            assert result["log_probs"][b, t].item() == pytest.approx(expected, abs=2e-6, rel=1e-6)
            assert result["token_entropy"][b, t].item() == pytest.approx(entropy_by_hand(logits[b][t]), abs=5e-6)


def test_entropy_is_left_out_unless_asked_for(random_model):
    batch = collate(SEQUENCES, pad_id=0)
    assert set(get_response_log_probs(random_model, batch.input_ids, batch.labels)) == {"log_probs"}


def test_gradient_goes_through_log_probs_only(random_model):
    batch = collate(SEQUENCES, pad_id=0)
    result = get_response_log_probs(random_model, batch.input_ids, batch.labels, return_token_entropy=True)
    assert not result["token_entropy"].requires_grad
    result["log_probs"].sum().backward()
    got = [parameter.grad.clone() for parameter in random_model.parameters()]
    random_model.zero_grad()
    logits = random_model(batch.input_ids).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum").neg().backward()
    for gradient, parameter in zip(got, random_model.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, atol=1e-5, rtol=1e-4)


def test_large_logits_lose_no_precision():
    """`logit - logsumexp` would be off by about 1e-3 here."""
    logits = torch.tensor([[[1e4, 1e4 - 0.5, 1e4 - 2.0], [1e4, -1e4, 0.0]]])
    result = get_response_log_probs(Fixed(logits), torch.zeros(1, 2).long(), torch.tensor([[1, 1]]))
    expected = [math.log(distribution(logits[0, 0].tolist())[1]), -2e4]
    assert result["log_probs"][0].tolist() == pytest.approx(expected, abs=1e-6)


def test_half_precision_logits_are_brought_to_float32_first():
    logits = (torch.randn(1, 4, 50, generator=torch.Generator().manual_seed(0)) * 5).bfloat16()
    labels = torch.tensor([[3, 1, 4, 1]])
    result = get_response_log_probs(Fixed(logits), torch.zeros_like(labels), labels, return_token_entropy=True)
    assert result["log_probs"].dtype == result["token_entropy"].dtype == torch.float32
    expected = [math.log(distribution(logits[0, t].tolist())[label]) for t, label in enumerate(labels[0].tolist())]
    assert result["log_probs"][0].tolist() == pytest.approx(expected, abs=2e-6)
    assert torch.equal(result["token_entropy"], compute_entropy(logits.float()))


def test_right_padding_is_harmless_without_attention_mask(random_model):
    """Causal attention: a real token sees only what stands left of it. With mask, without, and alone: the same."""
    batch = collate(SEQUENCES, pad_id=0)
    plain = get_response_log_probs(random_model, batch.input_ids, batch.labels)["log_probs"]
    masked = get_response_log_probs(random_model, batch.input_ids, batch.labels, attention_mask=batch.attention_mask)[
        "log_probs"
    ]
    other_padding = collate(SEQUENCES, pad_id=77)
    other = get_response_log_probs(random_model, other_padding.input_ids, other_padding.labels)["log_probs"]
    for row, example in enumerate(SEQUENCES):
        single = collate([example], pad_id=0)
        alone = get_response_log_probs(random_model, single.input_ids, single.labels)["log_probs"][0]
        for got in (plain, masked, other):
            assert torch.allclose(got[row, : len(alone)], alone, atol=1e-5)


def test_attention_mask_makes_left_padding_harmless(random_model):
    """So the mask is really passed on; without it left padding changes the result."""
    single = collate([SEQUENCES[0]], pad_id=0)
    alone = get_response_log_probs(random_model, single.input_ids, single.labels)["log_probs"]
    pad = torch.full((1, 4), 77)
    input_ids, labels = torch.cat([pad, single.input_ids], 1), torch.cat([pad, single.labels], 1)
    mask = torch.cat([torch.zeros(1, 4, dtype=torch.bool), single.attention_mask], 1)
    with_mask = get_response_log_probs(random_model, input_ids, labels, attention_mask=mask)["log_probs"][:, 4:]
    without = get_response_log_probs(random_model, input_ids, labels)["log_probs"][:, 4:]
    assert torch.allclose(with_mask, alone, atol=1e-5)
    assert (without - alone).abs().max() > 1e-3


def test_an_empty_row_gives_finite_numbers_and_gradients(random_model):
    batch = collate([*SEQUENCES, Example((), ())], pad_id=0)
    assert not batch.attention_mask[-1].any()
    for mask in (None, batch.attention_mask):
        random_model.zero_grad()
        result = get_response_log_probs(random_model, batch.input_ids, batch.labels, True, attention_mask=mask)
        assert result["log_probs"].isfinite().all() and result["token_entropy"].isfinite().all()
        (result["log_probs"] * batch.response_mask).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in random_model.parameters())


def test_entropy_keeps_no_tensor_of_vocabulary_size_for_the_backward():
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 3, dtype=torch.long)

    def kept(return_token_entropy):
        storages = set()

        def pack(tensor):
            if tensor.numel() == logits.numel():
                storages.add(tensor.untyped_storage().data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = get_response_log_probs(Fixed(logits), labels, labels, return_token_entropy)
        return len(storages), result

    assert kept(False)[0] == kept(True)[0] == 1  # the log-softmax


def test_shapes_that_do_not_belong_together_are_refused(random_model):
    ids = torch.ones(2, 4, dtype=torch.long)
    with pytest.raises(ConfigError, match="labels"):
        get_response_log_probs(random_model, ids, ids[:, 1:])
    for labels, mask in ((ids, ids[:, 1:]), (ids, ids[:1]), (ids[:1], ids)):
        with pytest.raises(ConfigError, match="input_ids has shape"):
            get_response_log_probs(random_model, ids, labels, response_mask=mask)


@pytest.mark.parametrize(("chunk", "sizes"), [(14, [2, 2, 1]), (15, [2, 2, 1]), (21, [3, 2]), (35, [5]), (3, [1] * 5)])
def test_entropy_is_computed_a_few_rows_at_a_time(monkeypatch, chunk, sizes):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    whole, seen, one_piece = compute_entropy(logits), [], logprobs._entropy_of_logits
    monkeypatch.setattr(logprobs, "_ENTROPY_CHUNK", chunk)
    monkeypatch.setattr(logprobs, "_entropy_of_logits", lambda piece: (seen.append(len(piece)), one_piece(piece))[1])
    assert torch.allclose(compute_entropy(logits), whole)
    assert seen == sizes


def test_entropy_takes_four_million_logits_at_a_time(monkeypatch):
    """A vocabulary of 150,000 in pieces of 27 rows: small enough for memory, large enough to be quick."""
    seen, one_piece = [], logprobs._entropy_of_logits
    monkeypatch.setattr(logprobs, "_entropy_of_logits", lambda piece: (seen.append(len(piece)), one_piece(piece))[1])
    compute_entropy(torch.zeros(1).expand(30, 150_000))
    assert seen == [27, 3]


def test_a_model_without_a_named_head_gives_zeros_outside_the_mask():
    logits = torch.tensor([[[0.0, math.log(3)], [0.0, 0.0], [math.log(3), 0.0]]])
    labels, mask = torch.tensor([[1, 1, 1]]), torch.tensor([[1, 0, 1]])
    for wanted in (mask, mask.bool()):
        found = get_response_log_probs(Fixed(logits), labels, labels, True, response_mask=wanted)
        assert found["log_probs"].exp().tolist() == [pytest.approx([0.75, 1.0, 0.25])]  # 0 is the log of 1
        assert found["token_entropy"].tolist() == [pytest.approx([0.562335, 0.0, 0.562335], abs=1e-6)]
        assert set(get_response_log_probs(Fixed(logits), labels, labels, response_mask=wanted)) == {"log_probs"}


def test_with_a_response_mask_the_other_positions_are_zero(random_model):
    batch = collate(SEQUENCES, pad_id=0)
    arguments = (random_model, batch.input_ids, batch.labels, True)
    everywhere = get_response_log_probs(*arguments)
    masked = get_response_log_probs(*arguments, response_mask=batch.response_mask)
    for name, values in everywhere.items():
        assert torch.allclose(masked[name], torch.where(batch.response_mask, values, 0.0), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_chunked_log_probs_by_hand(chunk, dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 4, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(9, 4, generator=generator).to(dtype)
    labels = torch.tensor([[0, 8, 3], [5, 5, 1]])
    found = chunked_log_probs(hidden, weight, labels, chunk)
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    logits = hidden.detach().to(wide) @ weight.to(wide).T
    assert found["log_probs"].shape == found["token_entropy"].shape == labels.shape
    assert found["log_probs"].dtype == found["token_entropy"].dtype == wide
    assert found["log_probs"].requires_grad and not found["token_entropy"].requires_grad
    for b, row in enumerate(labels.tolist()):
        for t, label in enumerate(row):
            values = logits[b, t].tolist()
            assert found["log_probs"][b, t].item() == pytest.approx(math.log(distribution(values)[label]), abs=1e-5)
            assert found["token_entropy"][b, t].item() == pytest.approx(entropy_by_hand(values), abs=1e-5)


def test_chunked_log_probs_refuses_what_does_not_fit():
    hidden, weight, labels = torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ConfigError, match="chunk_size is 0"):
        chunked_log_probs(hidden, weight, labels, 0)
    for arguments in ((hidden[:1], weight, labels), (hidden, weight[:, :2], labels), (hidden, weight, labels[None])):
        with pytest.raises(ConfigError, match="have shapes"):
            chunked_log_probs(*arguments, 2)
