"""Estimates of memory are held beside measurements; the tracker beside PyTorch's profiler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cs336_sft.errors import ConfigError
from cs336_sft.model.memory_estimate import ADAPTERS, METHODS, PRECISIONS, StepSetup, estimate_memory
from cs336_sft.model.memory_measurement import build_model, measure_memory
from cs336_sft.model.shape import KNOWN_SHAPES, ModelShape, known_shape, shape_from_config, shape_of

SHAPES = {
    "deep": ModelShape("deep", 128, 512, 4, 4, 2, 32, 1000, True, qkv_bias=True),
    "wide vocabulary": ModelShape("wide vocabulary", 64, 192, 3, 4, 2, 16, 8000, True, qkv_bias=True),
    "untied": ModelShape("untied", 96, 256, 2, 3, 1, 32, 2000, False),
}
NOTES = StepSetup(12, 1023, "bf16", "naive", gradient_checkpointing=True, grad_accumulation=True)


def families():
    from transformers import LlamaConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config

    sizes = {
        "vocab_size": 1000,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "pad_token_id": 0,
    }
    for kind in (LlamaConfig, MistralConfig, Olmo2Config, Qwen2Config, Qwen3Config):
        for tied in (False, True):
            yield pytest.param(kind(**sizes, tie_word_embeddings=tied), id=f"{kind.model_type}-{tied}")
    yield pytest.param(LlamaConfig(**sizes, attention_bias=True, mlp_bias=True), id="llama-biases")


@pytest.mark.parametrize("config", list(families()))
def test_parameters_are_counted_exactly(config) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape == shape_from_config(config.to_dict())


def test_published_sizes() -> None:
    """The numbers of parameters that the models' publishers give, to the last one."""
    sizes = {name: known_shape(name).parameters for name in KNOWN_SHAPES}
    assert sizes["Qwen/Qwen2.5-0.5B"] == 494_032_768
    assert sizes["Qwen/Qwen2.5-1.5B"] == sizes["Qwen/Qwen2.5-Math-1.5B"] == 1_543_714_304
    assert sizes["Qwen/Qwen2.5-7B"] == 7_615_616_512
    assert sizes["allenai/OLMo-2-0425-1B"] == 1_484_916_736
    assert sizes["HuggingFaceTB/SmolLM2-135M-Instruct"] == 134_515_008


def test_shape_of_a_folder_is_that_of_its_model(tmp_path) -> None:
    from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer

    model, _ = load_model_and_tokenizer(embedded_model_path())
    assert shape_of(embedded_model_path()).parameters == model.num_parameters()
    with pytest.raises(ConfigError, match="no config.json"):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "8"}')
    with pytest.raises(ConfigError, match="hidden_size = '8'"):
        shape_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="save the model again"):
        shape_of(tmp_path)


# --- estimate beside measurement


def measure(shape: ModelShape, setup: StepSetup):
    torch.manual_seed(0)
    return measure_memory(build_model(shape, setup), setup)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_estimate_meets_the_measurement(name, precision, checkpointing) -> None:
    """Weights, gradients and states exactly; the peak within 5 %, whichever moment it is at."""
    shape = SHAPES[name]
    for method in METHODS:
        setup = StepSetup(4, 64, precision, method, 64, gradient_checkpointing=checkpointing, device="cpu")
        for accumulating in (False, True) if method in ("naive", "one_pass") else (False,):
            setup = replace(setup, grad_accumulation=accumulating)
            estimate, measured = estimate_memory(shape, setup), measure(shape, setup)
            exact = [estimate.terms[term] for term in ("weights", "gradients", "optimizer states")]
            assert exact == [measured.weights, measured.gradients, measured.states]
            assert estimate.peak == pytest.approx(measured.peak, rel=0.05), setup
            assert estimate.moments["forward: logits"] <= 1.03 * measured.forward
            assert estimate.moments["update"] == pytest.approx(measured.update, rel=0.01)


@pytest.mark.parametrize("config", list(families()))
@pytest.mark.parametrize("precision", PRECISIONS)
def test_activations_of_every_family(config, precision) -> None:
    """Where nothing but the activations is large: their estimate alone within 3 %."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    setup = StepSetup(4, 128, precision, "chunked", chunk=64)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    estimate, measured = estimate_memory(shape_from_config(config), setup), measure_memory(model, setup)
    fixed = measured.weights + measured.states
    assert estimate.moments["forward: logits"] - fixed == pytest.approx(measured.forward - fixed, rel=0.03)


def test_one_pass_is_estimated_with_its_own_chunk() -> None:
    from cs336_sft.model.chunked_head import CPU_CHUNK

    setup = StepSetup(8, 1024, "fp32", device="cpu")
    assert estimate_memory(SHAPES["untied"], setup).terms["logits"] == 8 * CPU_CHUNK * SHAPES["untied"].vocab


def test_a_measurement_is_deterministic() -> None:
    setup = StepSetup(2, 32, "fp32", "naive")
    assert measure(SHAPES["deep"], setup).as_dict() == measure(SHAPES["deep"], setup).as_dict()


def test_a_longer_batch_costs_what_its_tokens_cost() -> None:
    """All but weights, gradients and states is in proportion to the tokens, except for the tables of sin and cos."""
    shape = SHAPES["deep"]
    one, two = (estimate_memory(shape, StepSetup(batch, 64, "fp32", "naive")) for batch in (8, 16))
    fixed = 12 * shape.parameters
    tables = 2 * 64 * shape.head_dim * 4
    assert two.peak - fixed - tables == 2 * (one.peak - fixed - tables)


# --- the notes' arithmetic


def test_the_notes_sum_and_what_it_misses() -> None:
    shape = known_shape("Qwen/Qwen2.5-1.5B")
    estimate = estimate_memory(shape, NOTES)
    one = 12 * 1023 * 151_936 * 4
    assert round(one / 1e9, 2) == 7.46
    assert estimate.terms["logits"] == 5 * one and round(5 * one / 1e9, 1) == 37.3
    assert round(estimate.terms["weights"] / 1e9, 1) == 3.1
    assert estimate.peak > 50e9, "no card of 44 GB holds the notes' version"
    fixed = estimate_memory(shape, replace(NOTES, method="chunked"))
    assert fixed.peak < 20e9
    assert estimate.peak_moment == "forward: logits" and fixed.peak_moment != "forward: logits"


def test_checkpointing_trades_activations_for_one_layer() -> None:
    shape = known_shape("Qwen/Qwen2.5-1.5B")
    kept = estimate_memory(shape, replace(NOTES, gradient_checkpointing=False)).terms["activations"]
    dropped = estimate_memory(shape, NOTES).terms
    assert dropped["activations"] < kept / 20
    assert dropped["activations"] >= shape.layers * 12 * 1023 * shape.hidden * 2


def test_adapters_need_less() -> None:
    shape = known_shape("Qwen/Qwen2.5-1.5B")
    full, lora, qlora = (estimate_memory(shape, StepSetup(1, 128, adapter=kind)) for kind in ADAPTERS)
    assert full.peak > 3 * lora.peak > 3 * qlora.peak
    # Rank 16 on the seven matrices of each layer, counted by hand.
    per_layer = 2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)
    assert lora.terms["gradients"] == 4 * 28 * 16 * per_layer


@pytest.mark.parametrize(
    ("field", "value"),
    [("micro_batch_size", 0), ("seq_len", 1.5), ("precision", "fp8"), ("method", "softmax"), ("chunk", True)],
)
def test_a_bad_setup_is_named(field, value) -> None:
    with pytest.raises(ConfigError, match=f"StepSetup.{field} is {value!r}"):
        StepSetup(**({"micro_batch_size": 1, "seq_len": 1} | {field: value}))


def test_what_cannot_be_measured_says_so() -> None:
    setup = StepSetup(1, 8, "bf16")
    model = build_model(SHAPES["untied"], setup)
    with pytest.raises(ConfigError, match="precision fp32 has torch.float32"):
        measure_memory(model, replace(setup, precision="fp32"))
    with pytest.raises(ConfigError, match="adapter 'lora'"):
        measure_memory(model, replace(setup, precision="mixed", adapter="lora"))
    with pytest.raises(ConfigError, match="no random model"):
        build_model(known_shape("allenai/OLMo-2-0425-1B"), setup)


# --- the command


def command(capsys, *argv: str) -> dict:
    from cs336_sft.cli import main

    assert main(["memory", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_command_estimates_a_profile(capsys) -> None:
    options = ["--micro-batch-size", "12", "--seq-len", "1023", "--precision", "bf16", "--method", "naive"]
    result = command(
        capsys, "--profile", "qwen2.5-math-1.5b", *options, "--gradient-checkpointing", "--grad-accumulation"
    )
    assert result["parameters"] == 1_543_714_304 and result["setup"]["device"] == "cuda"
    assert result["peak"] == estimate_memory(known_shape("Qwen/Qwen2.5-1.5B"), NOTES).peak
    assert "measurement" not in result and result["peak"] == max(result["moments"].values())


def test_command_measures_and_searches(capsys) -> None:
    result = command(capsys, "--measure", "--budget", "0.06", "--seq-len", "32")
    assert result["measurement"]["device"] == "cpu" or torch.cuda.is_available()
    assert result["search"]["batch"] == result["setup"]["micro_batch_size"] >= 1
    assert result["measurement"]["peak"] <= 0.06e9


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--micro-batch-size", "2", "--budget", "1"], "--micro-batch-size and --budget together"),
        (["--profile", "qwen2.5-math-1.5b", "--measure"], "too many to measure on a CPU"),
        (["--adapter", "lora", "--precision", "bf16"], "choose precision 'mixed'"),
        (["--model", "./nowhere"], "no config.json in ./nowhere"),
    ],
)
def test_command_explains_what_does_not_go_together(capsys, argv, message) -> None:
    from cs336_sft.cli import main

    assert main(["memory", *argv]) == 2
    assert message in capsys.readouterr().err


def test_command_prints_the_peak(capsys) -> None:
    from cs336_sft.cli import main

    assert main(["memory", "--micro-batch-size", "2", "--seq-len", "16", "--measure"]) == 0
    text = capsys.readouterr().out
    assert "<- peak" in text and "optimizer states" in text and "difference" in text


# --- what was recorded


def test_the_recorded_error_is_a_gpus() -> None:
    path = Path(__file__).resolve().parent.parent / "recorded" / "out_of_memory" / "h100.json"
    if not path.exists():
        pytest.skip("not recorded yet")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert "NVIDIA" in record["device"] and not record["config"]["small"]
    assert record["config"]["cap"] == 44_000_000_000
    assert not record["capped"]["notes"]["survived"] and record["capped"]["fix"]["survived"]
    for entry in record["estimates"]:
        if entry["measurement"]:
            now = estimate_memory(known_shape("Qwen/Qwen2.5-1.5B"), StepSetup(**entry["setup"]))
            assert now.peak == pytest.approx(entry["measurement"]["peak"], rel=0.1), entry["setup"]
