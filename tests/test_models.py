"""Loading: safetensors only, from a folder that is there, with a pad token."""

from __future__ import annotations

import json

import pytest
import torch

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.model.loading import (
    check_model_source,
    embedded_model_path,
    load_model_and_tokenizer,
    load_tokenizer,
    looks_like_path,
)


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


def test_a_package_without_its_model_says_so(monkeypatch) -> None:
    monkeypatch.setattr("cs336_sft.model.loading.EMBEDDED", "not-there")
    with pytest.raises(CourseError, match="no embedded model"):
        embedded_model_path()
