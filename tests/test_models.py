"""Loading: safetensors only, from a folder that is there, with a pad token."""

from __future__ import annotations

import json

import pytest
import torch

from cs336_sft.errors import ConfigError
from cs336_sft.model.loading import (
    check_model_source,
    embedded_model_path,
    load_model_and_tokenizer,
    load_tokenizer,
    looks_like_path,
)
from cs336_sft.model.shape import context_length


@pytest.fixture
def folder(tmp_path, random_model, tokenizer):
    path = tmp_path / "model"
    random_model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_saved_model_comes_back(folder, random_model, tokenizer) -> None:
    model, loaded = load_model_and_tokenizer(folder)
    for name, tensor in random_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert not model.training
    assert loaded("3 boxes of 12")["input_ids"] == tokenizer("3 boxes of 12")["input_ids"]


def test_weights_are_float32_unless_asked(folder, random_model) -> None:
    random_model.to(torch.bfloat16).save_pretrained(folder)
    assert load_model_and_tokenizer(folder)[0].dtype == torch.float32
    assert load_model_and_tokenizer(str(folder), dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_missing_pad_token_becomes_the_end_of_text(folder, tokenizer) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(folder)
    assert loaded.pad_token == loaded.eos_token == "<|endoftext|>"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(folder, name) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ConfigError, match=f"pickle.*{name}.*save_pretrained"):
        load_model_and_tokenizer(folder)


def test_safetensors_win_where_a_pickle_lies_beside_them(folder) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not a model")
    load_model_and_tokenizer(folder)


def test_code_in_the_folder_is_not_run(folder) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError):
        load_model_and_tokenizer(folder)


@pytest.fixture
def no_hub(monkeypatch):
    """Any request to the hub fails the test."""
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_what_looks_like_a_path_never_goes_to_the_hub(tmp_path, monkeypatch, no_hub) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/first", "./model", "../model", "a/b/c", "model/", str(tmp_path / "x"), "~/model"):
        with pytest.raises(ConfigError, match="no model folder"):
            load_model_and_tokenizer(name)
    with pytest.raises(ConfigError, match="no model folder"):
        load_model_and_tokenizer(tmp_path / "x")


def test_hub_names_pass_unchanged() -> None:
    assert check_model_source("Qwen/Qwen2.5-Math-1.5B") == "Qwen/Qwen2.5-Math-1.5B"
    assert not looks_like_path("gpt2")


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch) -> None:
    import transformers

    def fail(*args, **kwargs):
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(ConfigError, match="couldn't connect to the hub.*check the name and the connection") as caught:
        load_model_and_tokenizer("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no \\*.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64), "no model could be loaded"),
        (lambda f: (f / "config.json").write_text("{"), "could be"),
    ],
)
def test_damaged_folders(folder, spoil, message) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        load_model_and_tokenizer(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn_implementation": "flash_attention_2"}, "ImportError: FlashAttention2"),
        ({"hidden_act": "nosuch"}, "KeyError: 'nosuch'"),
        ({"hidden_size": 96}, "weights have other shapes than config.json says"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "ImportError: Loading a GPTQ"),
    ],
)
def test_what_libraries_raise_becomes_one_line_with_a_remedy(folder, change, message) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ConfigError, match=f"no model could be loaded from .*{message}.*Remedy: check") as caught:
        load_model_and_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_named_and_refused(folder) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in weights  # tied: not missing
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks weights .*, such as model.layers.0.mlp.up_proj.weight.*Remedy: save"):
        load_model_and_tokenizer(folder)


@pytest.mark.parametrize("kept", [(), ("tokenizer_config.json",)])
def test_a_folder_without_a_tokenizer_is_refused(folder, kept) -> None:
    for file in folder.glob("*token*"):
        if file.name not in kept:
            file.unlink()
    with pytest.raises(ConfigError, match="no tokenizer"):
        load_tokenizer(folder)


def test_a_temperature_without_do_sample_can_be_saved(folder, tmp_path) -> None:
    """Many models of the hub have such generation settings; transformers refuses to save them."""
    settings = json.loads((folder / "generation_config.json").read_text())
    settings |= {"temperature": 0.6, "top_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model, _ = load_model_and_tokenizer(folder)
    model.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert again["do_sample"] is True and again["temperature"] == 0.6 and again["top_p"] == 0.9


def test_generation_settings_that_stay_invalid_are_refused_at_once(folder) -> None:
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"num_beams": 1, "early_stopping": True}))
    with pytest.raises(ConfigError, match="can't be saved.*generation_config.json"):
        load_model_and_tokenizer(folder)


def test_a_pad_token_without_a_row_of_the_embedding_is_not_used(folder, tokenizer) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    model, loaded = load_model_and_tokenizer(folder)
    assert loaded.pad_token_id == loaded.eos_token_id < model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (lambda t: t.GPT2Config(n_positions=64), 64),
        (lambda t: t.MptConfig(max_seq_len=48), 48),
        (lambda t: t.Gemma3Config(text_config={"max_position_embeddings": 96}), 96),
        (lambda t: t.Qwen2Config(max_position_embeddings=80), 80),
        (lambda t: t.BloomConfig(), None),
    ],
)
def test_the_context_is_found_whatever_it_is_called(config, context) -> None:
    import transformers

    assert context_length(config(transformers)) == context


def test_a_file_is_not_a_folder(folder) -> None:
    with pytest.raises(ConfigError, match="is a file"):
        load_model_and_tokenizer(folder / "config.json")


def test_embedded_model_is_the_described_one() -> None:
    """A Qwen2-architecture base model of about 3 million parameters; its end-of-text token is also its padding."""
    path = embedded_model_path()
    model, tokenizer = load_model_and_tokenizer(path)
    assert model.config.model_type == "qwen2"
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 4.2e6
    assert model.config.max_position_embeddings == 4096
    assert model.config.hidden_size // model.config.num_attention_heads in (32, 64)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4, "digits are split"
    assert not any(path.glob("*.bin"))
