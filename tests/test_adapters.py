"""LoRA and QLoRA: what is trained, what is stored, and that merged and unmerged say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cs336_sft.cli import main
from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.experiments.config import make_config
from cs336_sft.experiments.run import run_sft
from cs336_sft.model.loading import is_adapter_folder, load_model_and_tokenizer, load_quantized, load_tokenizer
from cs336_sft.model.lora import AdapterConfig, add_adapter, merge_adapter
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import make_examples
from cs336_sft.training.loop import SFTConfig, train_sft
from cs336_sft.training.result import without_wall_clock

pytest.importorskip("peft", reason="pip install 'cs336-sft[lora]'")

SMALL = AdapterConfig(r=4, alpha=8)


@pytest.fixture
def settings(small_run) -> dict:
    return small_run | {"max_steps": 3, "method": "lora", "lora_r": 4, "learning_rate": 1e-2}


@pytest.fixture
def folder(small_run) -> Path:
    return Path(small_run["model"])


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture
def ids():
    return torch.arange(24).reshape(2, 12)


@pytest.mark.parametrize(
    "values",
    [{"r": 0}, {"r": 2.0}, {"alpha": 0}, {"dropout": 1.0}, {"targets": ()}, {"targets": ["q_proj"]}, {"quantize": 1}],
)
def test_settings_out_of_range_are_named(values) -> None:
    with pytest.raises(ConfigError, match=f"AdapterConfig.{next(iter(values))}"):
        AdapterConfig(**values)


def test_a_fresh_adapter_changes_nothing_and_alone_is_trained(random_model, ids) -> None:
    before = logits(random_model, ids)
    adapted = add_adapter(random_model, SMALL, seed=1)
    assert torch.equal(logits(adapted, ids), before)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    layers, hidden, inner, kv = 2, 64, 128, 32
    pairs = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)] + [(hidden, inner)] * 2 + [(inner, hidden)]
    expected = layers * sum(4 * (a + b) for a, b in pairs)
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == expected


def test_the_update_is_the_product_of_two_small_matrices(random_model, ids) -> None:
    """The formula of the paper, by hand, for one layer."""
    adapted = add_adapter(random_model, AdapterConfig(r=4, alpha=8, targets=("q_proj",)))
    layer = adapted.base_model.model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_(generator=torch.Generator().manual_seed(0))
        x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
        expected = x @ (layer.base_layer.weight + 8 / 4 * b @ a).T + layer.base_layer.bias
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_the_seed_chooses_the_random_half(folder) -> None:
    def matrices(seed):
        adapted = add_adapter(load_model_and_tokenizer(folder)[0], SMALL, seed=seed)
        return torch.cat([p.flatten() for n, p in adapted.named_parameters() if "lora_A" in n])

    state = torch.get_rng_state()
    assert torch.equal(matrices(0), matrices(0)) and not torch.equal(matrices(0), matrices(1))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state is left alone"


def test_a_layer_that_is_not_there_is_named(random_model) -> None:
    with pytest.raises(ConfigError, match="query.*choose from.*q_proj"):
        add_adapter(random_model, AdapterConfig(targets=("query",)))
    with pytest.raises(ConfigError, match="not in 4 bits"):
        add_adapter(random_model, AdapterConfig(quantize=True))


def test_an_update_of_a_tied_head_is_refused(random_model) -> None:
    """Merged, it would change the embedding too."""
    with pytest.raises(ConfigError, match="'lm_head', which shares its matrix.*choose from down_proj"):
        add_adapter(random_model, AdapterConfig(targets=("q_proj", "lm_head")))


def test_an_untied_head_may_have_an_adapter() -> None:
    import transformers

    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(num_attention_heads=1, num_key_value_heads=1, **sizes)
    adapted = add_adapter(transformers.LlamaForCausalLM(config), AdapterConfig(targets=("lm_head",)))
    assert any("lm_head" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_an_adapter_folder_without_a_tokenizer_has_its_models(folder, random_model, tmp_path, ids) -> None:
    """What peft writes by itself."""
    adapted = add_adapter(load_model_and_tokenizer(folder)[0], SMALL)
    adapted.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "tokenizer_config.json").exists()
    loaded, tokenizer = load_model_and_tokenizer(tmp_path / "adapter")
    assert torch.equal(logits(loaded, ids), logits(adapted, ids))
    assert tokenizer("3 boxes")["input_ids"] == load_tokenizer(folder)("3 boxes")["input_ids"]


def test_an_adapter_of_another_model_is_one_clear_error(folder, tmp_path) -> None:
    add_adapter(load_model_and_tokenizer(folder)[0], SMALL).save_pretrained(tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "embedded"
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="could not be loaded over embedded.*Remedy: check that adapter_config.json"):
        load_model_and_tokenizer(tmp_path / "adapter")


def test_a_run_leaves_an_adapter_that_loads_and_merges(settings, folder, tmp_path, ids, capsys) -> None:
    before = logits(load_model_and_tokenizer(folder)[0], ids)
    run = tmp_path / "run"
    outcome = run_sft(make_config(**settings), run)
    assert outcome.result.metrics[-1]["loss"] < outcome.result.metrics[0]["loss"]
    assert is_adapter_folder(run / "final") and not (run / "final" / "model.safetensors").exists()
    size = (run / "final" / "adapter_model.safetensors").stat().st_size
    assert size < (folder / "model.safetensors").stat().st_size / 2

    adapted, _ = load_model_and_tokenizer(run / "final")
    after = logits(adapted, ids)
    assert not torch.allclose(after, before, atol=1e-3)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, ids), before)

    merged = merge_adapter(run / "final", tmp_path / "merged")
    model, _ = load_model_and_tokenizer(merged)
    assert not hasattr(model, "peft_config") and torch.allclose(logits(model, ids), after, atol=1e-4)
    with pytest.raises(ConfigError, match="there already"):
        merge_adapter(run / "final", merged)
    with pytest.raises(ConfigError, match="no adapter"):
        merge_adapter(folder, tmp_path / "other")

    argv = ["--data", settings["data"], "--eval-size", "3", "--max-new-tokens", "4", "--json"]
    assert main(["eval", "--model", str(run / "final"), *argv]) == 0
    unmerged = json.loads(capsys.readouterr().out)["metrics"]
    assert unmerged["entropy"] == pytest.approx(outcome.result.evaluations[-1]["entropy"], abs=1e-5)
    assert main(["merge", str(run / "final"), "--out", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main(["eval", "--model", str(tmp_path / "again"), *argv]) == 0
    merged_metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert merged_metrics["entropy"] == pytest.approx(unmerged["entropy"], abs=1e-4)


def test_a_stopped_run_goes_on_to_the_same_numbers(folder, tokenizer, problems, tmp_path) -> None:
    examples = make_examples(problems, get_template("gsm8k"), tokenizer)
    config = SFTConfig(learning_rate=1e-2, batch_size=4, max_steps=4, checkpoint_every=2, progress=False)

    def fresh():
        return add_adapter(load_model_and_tokenizer(folder)[0], SMALL, seed=0)

    whole = train_sft(fresh(), tokenizer, examples, config, tmp_path / "whole")

    def stop(step):
        if step == 3:
            raise RuntimeError("stopped")
        return {}

    with pytest.raises(RuntimeError):
        one_by_one = SFTConfig(**{**config.to_dict(), "eval_every": 1, "betas": (0.9, 0.95)})
        train_sft(fresh(), tokenizer, examples, one_by_one, tmp_path / "cut", evaluator=stop)
    cut = train_sft(fresh(), tokenizer, examples, one_by_one, tmp_path / "cut", evaluator=lambda step: {})
    assert without_wall_clock(cut.metrics) == without_wall_clock(whole.metrics)
    stored = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert stored["adapter.r"] == 4 and stored["adapter.alpha"] == 8 and stored["adapter.quantize"] is False
    with pytest.raises(RunDirectoryError, match="adapter.alpha was 8, now 16"):
        other = add_adapter(load_model_and_tokenizer(folder)[0], AdapterConfig(r=4, alpha=16), seed=0)
        train_sft(other, tokenizer, examples, config, tmp_path / "whole")


def test_the_command_takes_the_settings_of_an_adapter(settings, tmp_path, capsys) -> None:
    argv = ["sft", "--out", str(tmp_path / "run"), "--train-size", "4", "--batch-size", "2", "--max-steps", "1"]
    argv += ["--model", settings["model"], "--data", settings["data"], "--eval-data", settings["data"], "--json"]
    argv += ["--eval-size", "2", "--max-new-tokens", "3", "--eval-every", "none"]
    argv += ["--method", "lora"]
    assert main([*argv, "--lora-r", "2", "--lora-alpha", "4", "--lora-targets", '["q_proj", "v_proj"]']) == 0
    capsys.readouterr()
    noted = json.loads((tmp_path / "run" / "final" / "adapter.json").read_text())
    assert (noted["r"], noted["alpha"], noted["targets"]) == (2, 4.0, ["q_proj", "v_proj"])
    for option, value in (("r", "x"), ("alpha", "0"), ("dropout", "1"), ("targets", "q_proj")):
        assert main([*argv, f"--lora-{option}", value]) == 2
        assert f"RunConfig.lora_{option}" in capsys.readouterr().err


class TestQuantized:
    """4-bit weights; on a CPU too, where bitsandbytes supports it."""

    @pytest.fixture(autouse=True)
    def needs_bitsandbytes(self):
        pytest.importorskip("bitsandbytes", reason="pip install 'cs336-sft[qlora]'")

    def test_a_run_learns_loads_and_merges_onto_what_it_was_trained_on(self, settings, tmp_path, ids) -> None:
        run = tmp_path / "run"
        outcome = run_sft(make_config(**settings | {"method": "qlora"}), run)
        losses = [record["loss"] for record in outcome.result.metrics]
        assert losses[-1] < losses[0]
        adapted, _ = load_model_and_tokenizer(run / "final")
        weight = adapted.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight
        assert weight.dtype == torch.uint8 and weight.numel() == 64 * 128 // 2
        merged, _ = load_model_and_tokenizer(merge_adapter(run / "final", tmp_path / "merged"))
        assert torch.allclose(logits(merged, ids), logits(adapted, ids), atol=1e-3)
        assert not any(p.dtype == torch.uint8 for p in merged.parameters())

    def test_training_after_an_evaluation_still_has_gradients(self, folder, ids) -> None:
        """On some CPUs bitsandbytes repacks the weights for inference, which has no backward pass."""
        model, _ = load_quantized(folder, device="cpu")
        adapted = add_adapter(model, AdapterConfig(r=4, alpha=8, quantize=True))
        logits(adapted, ids)
        adapted.train()
        adapted(ids, labels=ids).loss.backward()
        grads = [p.grad.abs().sum().item() for n, p in adapted.named_parameters() if "lora_B" in n]
        assert len(grads) == 14 and min(grads) > 0, "in every layer, the first included"

    def test_four_bits_round_the_weights(self, folder, ids) -> None:
        exact, _ = load_model_and_tokenizer(folder)
        model, _ = load_quantized(folder, device="cpu")
        rounded = model.dequantize(dtype=torch.float32)
        for name in ("mlp.up_proj", "self_attn.q_proj"):
            a, b = (m.model.layers[0].get_submodule(name).weight for m in (exact, rounded))
            error = (a - b).abs().mean() / a.abs().mean()
            assert 0.02 < error < 0.2, name
