"""CUDA graphs of the model: the same steps as without, whatever the shapes (on a CPU the recording runs each time)."""

from __future__ import annotations

import copy
import logging
import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from cs336_sft.errors import DataError
from cs336_sft.records import Example
from cs336_sft.training import distributed, graphs
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.distributed import SingleProcess
from cs336_sft.training.graphs import GraphedForward, can_be_graphed
from cs336_sft.training.loop import train_sft
from cs336_sft.training.step import make_microbatches, make_optimizer, optimizer_step

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["no", "bf16"])
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
    assert [r["grad_norm"] for r in found] == pytest.approx([r["grad_norm"] for r in expected], **close)
    assert not forward.failed
    shapes = set(forward.recordings)
    assert all(length % 32 == 0 for _, length in shapes) and {rows for rows, _ in shapes} == {4, 2}
    if precision == "no":
        for (name, a), b in zip(graphed.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=2e-4, msg=name)  # AdamW turns tiny gradients into steps
    addresses = {id(p.grad): p.grad.data_ptr() for p in graphed.parameters()}
    steps_of(graphed, config, forward, number=1)
    assert addresses == {id(p.grad): p.grad.data_ptr() for p in graphed.parameters()}  # a graph writes to these
    assert not any(p.grad.any() for p in graphed.parameters())  # the next step starts from zero
    group.close()
    assert all(p.grad is None for p in graphed.parameters()) and not forward.recordings


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_the_short_rms_norm_is_the_models(family) -> None:
    config = AutoConfig.for_model(family, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    model = AutoModelForCausalLM.from_config(config)
    norms = [module for module in model.modules() if "RMSNorm" in type(module).__name__]
    forward = GraphedForward(model)
    assert forward._norms == norms and len(norms) >= 3
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
        hidden = torch.randn(2, 3, len(norm.weight)) * 5
        torch.testing.assert_close(graphs._rms_norm(norm, hidden), norm(hidden))


def test_a_recording_is_made_once_for_a_shape(monkeypatch) -> None:
    model, made = make_model(), []
    forward = GraphedForward(model)
    record = forward._record
    monkeypatch.setattr(forward, "_record", lambda shape: made.append(tuple(shape)) or record(shape))
    batches = [torch.randint(97, (2, length)) for length in (5, 31, 32, 33, 64, 7)]
    found = [forward(model, {"input_ids": ids}) for ids in batches]  # kept: a later one must not write over it
    for ids, (hidden, head) in zip(batches, found, strict=True):
        assert torch.allclose(head.module(hidden), model(ids).logits, atol=1e-5)
    assert made == [(2, 32), (2, 64)]


def test_an_id_outside_of_the_vocabulary_is_named_before_anything_is_recorded() -> None:
    forward = GraphedForward(make_model())
    with pytest.raises(DataError, match="input_ids holds 97"):
        forward(forward.model, {"input_ids": torch.tensor([[1, 97]])})
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
    monkeypatch.setattr(distributed, "can_be_graphed", lambda model: True)
    monkeypatch.setattr(distributed, "GraphedForward", lambda *args: made.append(GraphedForward(*args)) or made[-1])
    found = train_sft(model, tokenizer, examples, config, tmp_path / "graphed", keep_weights=False)
    assert len(made) == 1
    losses = [[record["loss"] for record in result.metrics] for result in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and len(losses[0]) == 6
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_graphed(device, monkeypatch) -> None:
    model = make_model().to(device)
    on_gpu = device == "cuda"
    assert can_be_graphed(model) is on_gpu
    monkeypatch.setattr(graphs, "_on_gpu", lambda model: True)
    assert can_be_graphed(model)
    assert not can_be_graphed(make_model(attention_dropout=0.1))
    model.gradient_checkpointing_enable()
    assert not can_be_graphed(model)
    model.gradient_checkpointing_disable()
    dropping = torch.nn.Dropout(0.1)
    model.add_module("extra", dropping)
    assert not can_be_graphed(model)
    dropping.p = 0.0
    assert can_be_graphed(model)
    monkeypatch.setenv("CS336_CUDA_GRAPHS", "0")
    assert not can_be_graphed(model)


def test_a_recording_that_fails_within_a_step_keeps_its_gradients(monkeypatch) -> None:
    config = SFTConfig(batch_size=6, micro_batch_size=2, learning_rate=1e-2)
    plain = make_model()
    model = copy.deepcopy(plain)
    expected, _ = steps_of(plain, config)
    forward = GraphedForward(model)
    record = forward._record

    def fail_second(shape):
        if forward.recordings:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return record(shape)

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
