"""CUDA graphs of the model: the same steps as without, whatever the shapes (on a CPU the recording runs each time)."""

from __future__ import annotations

import copy
import logging
import random

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.losses import run_to_response, sft_loss
from cs336_sft.records import Batch, Example
from cs336_sft.tokenization import collate
from cs336_sft.training import distributed, graphs
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.distributed import SingleProcess
from cs336_sft.training.graphs import GraphedForward, can_be_graphed
from cs336_sft.training.loop import train_sft
from cs336_sft.training.packing import Packed, pack, packed_attention
from cs336_sft.training.step import make_microbatches, make_optimizer, optimizer_step

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def make_model(tied: bool = True, **settings) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 97}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, **settings))


def make_examples(n: int = 18) -> list[Example]:
    rng = random.Random(1)

    def ids(longest):
        return tuple(rng.randrange(97) for _ in range(rng.randrange(2, longest)))

    return [Example(ids(40), ids(60)) for _ in range(n)]


def make_batch(*lengths: int) -> Batch:
    rng = random.Random(len(lengths))
    examples = [Example((1,), tuple(rng.randrange(97) for _ in range(length))) for length in lengths]
    return collate(examples, 0)


def steps_of(model, config, forward=None, number=6) -> tuple[list[dict], SingleProcess]:
    group = SingleProcess()
    if forward:
        group.forward = forward
    optimizer, examples = make_optimizer(model, config), make_examples()
    records = []
    for step in range(number):
        indices = [index % len(examples) for index in range(step * 6, step * 6 + 6)]
        batches = make_microbatches(examples, indices, config.micro_batch_size, 0)
        records.append(optimizer_step(model, optimizer, batches, config, step + 1, 1e-2, group))
    return records, group


@pytest.mark.parametrize(
    ("device", "precision"), [("cpu", "no"), ("cpu", "bf16"), pytest.param("cuda", "bf16", marks=needs_gpu)]
)
@pytest.mark.parametrize("tied", [True, False])
def test_graphed_steps_are_those_of_the_plain_step(device, tied, precision) -> None:
    config = SFTConfig(batch_size=6, micro_batch_size=4, learning_rate=1e-2, mixed_precision=precision)
    plain = make_model(tied).to(device)
    graphed = copy.deepcopy(plain)
    expected, _ = steps_of(plain, config)
    forward = GraphedForward(graphed, torch.bfloat16 if precision == "bf16" else None)
    assert len(forward._copies) == (0 if precision == "no" else 2 * (7 + 3))  # weights, and the biases of q, k and v
    found, group = steps_of(graphed, config, forward)
    # In bfloat16 a last bit of float32 can decide a rounding. Old weights would be off by 1e-1.
    close = {"rel": 1e-5 if precision == "no" else 3e-3 if device == "cpu" else 2e-2}
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], **close)
    close["rel"] *= 1 if precision == "no" else 10
    assert [r["grad_norm"] for r in found] == pytest.approx([r["grad_norm"] for r in expected], **close)
    assert not forward.failed
    assert {sequences for (_, sequences, _), _ in forward.recordings} == {4 + 2, 2 + 2}  # and the filling, and an end
    if precision == "no":
        for (name, a), b in zip(graphed.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4, msg=name)  # AdamW turns tiny gradients into steps
    addresses = {id(p.grad): p.grad.data_ptr() for p in graphed.parameters()}
    steps_of(graphed, config, forward, number=1)
    assert addresses == {id(p.grad): p.grad.data_ptr() for p in graphed.parameters()}  # a graph writes to these
    assert not any(p.grad.any() for p in graphed.parameters())  # the next step starts from zero
    group.close()
    assert all(p.grad is None for p in graphed.parameters()) and not forward.recordings


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_costs_no_more_than_autocast_does(device) -> None:
    """The error of the gradient, against float32."""
    model = make_model().to(device)
    batches = make_microbatches(make_examples(), list(range(12)), 4, 0)

    def gradient(forward=run_to_response, of=model, precision=True) -> torch.Tensor:
        of.zero_grad(set_to_none=False)
        for batch in batches:
            with torch.autocast(device, torch.bfloat16, enabled=precision):
                loss, _ = sft_loss(of, batch, 100.0, forward)
            loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in of.parameters()])

    exact, plain = gradient(precision=False), gradient()
    graphed_model = copy.deepcopy(model)
    forward = GraphedForward(graphed_model, torch.bfloat16)
    graphed = gradient(forward, graphed_model)
    assert not forward.failed
    assert 1e-3 < (plain - exact).norm() / exact.norm() < 0.03
    assert (graphed - exact).norm() < 1.25 * (plain - exact).norm()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_short_rms_norm_is_the_models(family) -> None:
    config = AutoConfig.for_model(family, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    model = AutoModelForCausalLM.from_config(config)
    norms = [module for module in model.modules() if "RMSNorm" in type(module).__name__]
    assert len(norms) >= 3
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    states = [torch.randn(2, 3, len(norm.weight)) * 5 for norm in norms]
    expected = [norm(hidden) for norm, hidden in zip(norms, states, strict=True)]
    assert graphs.shorten_norms(model) == norms and all("forward" in vars(norm) for norm in norms)
    for norm, hidden, before in zip(norms, states, expected, strict=True):
        torch.testing.assert_close(norm(hidden), before)


def test_a_recording_is_made_once_for_a_shape(monkeypatch) -> None:
    model, made = make_model(), []
    forward = GraphedForward(model)
    record = forward._record
    monkeypatch.setattr(forward, "_record", lambda packed: made.append(packed.shape) or record(packed))
    batches = [
        make_batch(*lengths) for lengths in ((5, 9), (31, 1), (200, 55), (200, 56), (255, 255), (7, 6), (256, 256))
    ]
    found = [forward(model, batch) for batch in batches]  # kept: a later one must not write over it
    for batch, (hidden, head) in zip(batches, found, strict=True):
        expected = model(batch.input_ids).logits[batch.response_mask]
        torch.testing.assert_close(head.module(hidden), expected, rtol=0, atol=1e-5)
    assert made == [(256, 4, 512), (512, 4, 512), (768, 4, 512)]  # the filling is never empty


def make_packed(length: int) -> Packed:
    return pack(torch.zeros(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("device", DEVICES)
def test_packed_sequences_do_not_see_each_other(device, window) -> None:
    """Values and gradients are those of each sequence alone; a neighbour changes not one bit."""
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    close = {"rtol": 0, "atol": 1e-5 if device == "cpu" else 2e-2}
    lengths = (7, 1, 20, 300)
    batch = pack(torch.arange(300).expand(4, -1), torch.arange(300) < torch.tensor(lengths)[:, None]).to(device)
    heads = [torch.randn(1, n, batch.input_ids.numel(), 8, device=device, dtype=dtype) for n in (4, 2, 2)]  # q, k, v
    heads = [states.requires_grad_() for states in heads]
    names = {"cu_seq_lens_q": batch.starts, "max_length_q": batch.longest, "scaling": 0.4, "sliding_window": window}
    found, _ = packed_attention(None, *heads, None, **names)  # [1, N, 4, 8]
    weights = torch.randn_like(found)
    gradients = torch.autograd.grad((found * weights).sum(), heads)
    assert batch.longest == 512 and make_packed(513).longest == 1024 and make_packed(512).longest == 512
    for start, length in zip(batch.starts.tolist(), lengths, strict=False):
        part = slice(start, start + length)
        q, k, v = [states[:, :, part].detach().float().requires_grad_() for states in heads]
        past = torch.arange(length, device=device)
        past = past[:, None] - past
        scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.4
        scores = scores.masked_fill((past < 0) | (past >= (window or length)), -torch.inf)
        alone = (scores.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2)
        torch.testing.assert_close(found[:, part].float(), alone, **close)
        expected = torch.autograd.grad((alone * weights[:, part]).sum(), (q, k, v))
        for gradient, own in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient[:, :, part].float(), own, **close)
    with torch.no_grad():
        heads[2][:, :, 7] = 1e3  # the only token of the second sequence
        heads[1][:, :, 7] = 1e3
    after, _ = packed_attention(None, *heads, None, **names)
    changed = (after != found).flatten(2).any(-1).squeeze(0).nonzero().flatten().tolist()
    assert changed == [7]


def test_an_id_outside_of_the_vocabulary_is_named_before_anything_is_recorded() -> None:
    forward, batch = GraphedForward(make_model()), make_batch(5)
    batch.input_ids[0, 1] = 97
    with pytest.raises(DataError, match="input_ids holds 97"):
        forward(forward.model, batch)
    assert not forward.recordings


def test_a_recording_that_fails_is_told_and_done_without(monkeypatch, caplog) -> None:
    config = SFTConfig(batch_size=6, micro_batch_size=4, learning_rate=1e-2)
    plain = make_model()
    model = copy.deepcopy(plain)
    expected, _ = steps_of(plain, config)

    def fail(self, shape):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(GraphedForward, "_record", fail)
    with caplog.at_level(logging.WARNING):
        forward = GraphedForward(model, torch.bfloat16)
        found, _ = steps_of(model, config, forward)
    assert not forward._copies and all(p.grad is None for p in model.parameters())  # they would take memory
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=1e-6)
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA graphs, going on without: CUDA error: operation not permitted when stream is capturing"
    ]


def test_train_sft_uses_graphs_where_it_can_and_leaves_no_trace(monkeypatch, tmp_path, tokenizer) -> None:
    config = SFTConfig(batch_size=4, micro_batch_size=3, epochs=2, learning_rate=1e-3, progress=False)
    examples, made = make_examples(10), []
    plain, model = make_model(), make_model()
    expected = train_sft(plain, tokenizer, examples, config, tmp_path / "plain", keep_weights=False)
    monkeypatch.setattr(distributed, "can_be_graphed", lambda *_: True)
    monkeypatch.setattr(distributed, "GraphedForward", lambda *args: made.append(GraphedForward(*args)) or made[-1])
    found = train_sft(model, tokenizer, examples, config, tmp_path / "graphed", keep_weights=False)
    assert len(made) == 1
    losses = [[record["loss"] for record in result.metrics] for result in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 6
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_each_gradient_is_exchanged_once_and_complete(tied) -> None:
    model, exchanged, waited = make_model(tied), [], []

    class Work:
        def wait(self):
            waited.append(self)

    def exchange(tensor):
        exchanged.append((tensor, tensor.clone()))
        return Work()

    forward = GraphedForward(model, torch.bfloat16, exchange)
    for forward.exchanges in (False, True):
        assert not exchanged
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = sft_loss(model, make_batch(9, 4), 5.0, forward)
        loss.backward()
    forward.finish_exchange()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert {id(tensor) for tensor, _ in exchanged} == {id(gradient) for gradient in gradients}
    assert len(exchanged) == len(waited) == len(gradients)
    assert all(torch.equal(*pair) for pair in exchanged)  # nothing was added afterwards


def test_a_recording_that_fails_in_one_of_several_processes_ends_the_run(monkeypatch) -> None:
    forward = GraphedForward(make_model(), exchange=lambda tensor: None)
    monkeypatch.setattr(forward, "_record", lambda packed: torch.empty(2**60))
    with pytest.raises(ConfigError, match="process 0: no CUDA graphs: .*CS336_CUDA_GRAPHS=0"):
        forward(forward.model, make_batch(5))


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_graphed(device, monkeypatch) -> None:
    model = make_model().to(device)
    on_gpu = device == "cuda"
    half = torch.bfloat16
    assert can_be_graphed(model, half) is on_gpu
    monkeypatch.setattr(graphs, "_on_gpu", lambda model: True)
    assert not can_be_graphed(model)  # float32
    assert can_be_graphed(copy.deepcopy(model).to(half)) and can_be_graphed(model, half)
    assert not can_be_graphed(make_model(attention_dropout=0.1), half)
    assert not can_be_graphed(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, attn_pdrop=0.0)).half())
    gemma = AutoConfig.for_model("gemma2", hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    assert not can_be_graphed(AutoModelForCausalLM.from_config(gemma), half)  # caps its attention
    model.gradient_checkpointing_enable()
    assert not can_be_graphed(model, half)
    model.gradient_checkpointing_disable()
    dropping = torch.nn.Dropout(0.1)
    model.add_module("extra", dropping)
    assert not can_be_graphed(model, half)
    dropping.p = 0.0
    assert can_be_graphed(model, half)
    monkeypatch.setenv("CS336_CUDA_GRAPHS", "0")
    assert not can_be_graphed(model, half)


def test_a_recording_that_fails_within_a_step_keeps_its_gradients(monkeypatch) -> None:
    config = SFTConfig(batch_size=6, micro_batch_size=4, learning_rate=1e-2)
    plain = make_model()
    model = copy.deepcopy(plain)
    expected, _ = steps_of(plain, config)
    forward = GraphedForward(model)
    record = forward._record

    def fail_second(packed):
        if forward.recordings:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(packed)

    monkeypatch.setattr(forward, "_record", fail_second)
    found, _ = steps_of(model, config, forward)
    assert forward.failed
    assert [r["grad_norm"] for r in found] == pytest.approx([r["grad_norm"] for r in expected], rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_weights_in_bfloat16_are_trained_as_they_are(device) -> None:
    config = SFTConfig(batch_size=6, micro_batch_size=4, learning_rate=1e-2, weights_dtype="bfloat16")
    plain = make_model().to(device, torch.bfloat16)
    graphed = copy.deepcopy(plain)
    expected, _ = steps_of(plain, config, number=2)
    forward = GraphedForward(graphed)
    found, _ = steps_of(graphed, config, forward, number=2)
    assert not forward.failed and not forward._copies
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in expected], rel=2e-2)
