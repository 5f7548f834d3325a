"""The policy's weights by their Hugging Face names, and the watch that notices when they change."""

from __future__ import annotations

import gc

import pytest
import torch
from safetensors.torch import load_file

from cs336_sft.errors import ConfigError
from cs336_sft.generation.vllm_backend.weights import (
    WeightWatch,
    check_names,
    expected_shapes,
    policy_tensors,
    save_policy,
    weights,
)


def values(model) -> dict[str, torch.Tensor]:
    return dict(weights(policy_tensors(model)))


def assert_same(got: dict, expected: dict, **tolerance) -> None:
    assert set(got) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, **(tolerance or {"rtol": 0, "atol": 0}))


WRAPPERS = {
    "compile": torch.compile,
    "data parallel": torch.nn.DataParallel,
    "both": lambda model: torch.nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_leave_no_trace(random_model, wrap) -> None:
    expected = values(random_model)
    assert "lm_head.weight" not in expected, "tied weights count once"
    assert_same(values(wrap(random_model)), expected)


def test_layers_that_are_compiled_one_by_one(random_model) -> None:
    expected = values(random_model)
    random_model.model.layers[1] = torch.compile(random_model.model.layers[1])
    assert any("_orig_mod" in name for name, _ in random_model.named_parameters())
    assert_same(values(random_model), expected)


def test_names_and_shapes_are_those_of_the_configuration(random_model) -> None:
    expected = expected_shapes(random_model.config)
    tensors = policy_tensors(random_model)
    check_names(tensors, expected)
    with pytest.raises(ConfigError, match="model.norm.weight is missing in the policy"):
        check_names(tensors[:-1], expected)
    random_model.resize_token_embeddings(400, mean_resizing=False)
    with pytest.raises(ConfigError, match=r"embed_tokens.weight is \(400, 64\) in the policy"):
        check_names(policy_tensors(random_model), expected)


def test_file_for_another_process(random_model, tmp_path) -> None:
    save_policy(policy_tensors(random_model), tmp_path)
    assert_same(load_file(tmp_path / "model.safetensors"), values(random_model))


def test_quantised_weights_are_refused() -> None:
    model = torch.nn.Linear(2, 1)
    model.weight = torch.nn.Parameter(torch.zeros(2, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(ConfigError, match="quantised"):
        policy_tensors(model)


def lora(model, **settings):
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install 'cs336-sft[lora]')")
    torch.manual_seed(1)
    model = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=5, **settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)  # B starts at zero, which would hide everything
    return model


def test_lora_is_merged_as_merge_and_unload_would_and_the_model_stays(random_model) -> None:
    plain = set(values(random_model))
    model = lora(random_model, target_modules=["q_proj", "down_proj"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    got = values(torch.compile(model))
    assert {name: p for name, p in model.named_parameters()}.keys() == before.keys()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert set(got) == plain
    assert_same(got, values(model.merge_and_unload()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["norm"]}], ids=["dora", "whole modules"])
def test_other_adapters_are_refused(random_model, settings) -> None:
    with pytest.raises(ConfigError, match="only plain LoRA"):
        policy_tensors(lora(random_model, target_modules=["q_proj"], **settings))


def test_merged_and_switched_off_adapters(random_model) -> None:
    base = {name: tensor.clone() for name, tensor in values(random_model).items()}
    model = lora(random_model, target_modules=["q_proj"])
    with model.disable_adapter():
        assert_same(values(model), base)
    merged = {name: tensor.clone() for name, tensor in values(model).items()}
    model.merge_adapter()
    assert_same(values(model), merged, rtol=1e-6, atol=1e-6)


# The watch

OPTIMIZERS = {
    "AdamW, plain": lambda p: torch.optim.AdamW(p, foreach=False),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, fused=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=10.0),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_one_step_of_any_optimizer_is_noticed(random_model, make, dtype) -> None:
    """Fused ones do not count up ``_version``, which would be the obvious thing to look at."""
    random_model.to(dtype)
    optimizer = make(list(random_model.parameters()))
    random_model(torch.tensor([[1, 2, 3]])).logits.square().mean().backward()
    watch = WeightWatch(random_model)
    assert watch.changed() is None
    optimizer.step()
    assert watch.changed() is not None
    assert WeightWatch(random_model).changed() is None


def test_a_single_bit_is_noticed(random_model) -> None:
    weight = random_model.model.embed_tokens.weight
    watch = WeightWatch(random_model)
    with torch.no_grad():
        weight[17, 33] = torch.nextafter(weight[17, 33], torch.tensor(9.0))
    assert watch.changed() == "model.embed_tokens.weight"


CHANGES = {
    "behind autograd's back": lambda p: p.data.mul_(1.01),
    "other storage": lambda p: setattr(p, "data", p.data + 1),
    "in place": lambda p: p.add_(1.0),
    "one value, by numpy": lambda p: p.detach().numpy().__setitem__(0, 7.0),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_ways_to_change_a_parameter(random_model, change) -> None:
    watch = WeightWatch(torch.compile(random_model))
    with torch.no_grad():
        change(random_model.model.norm.weight)
    assert watch.changed() == "model.norm.weight"


def test_reading_is_no_change_and_a_model_that_is_gone_cannot_change(random_model) -> None:
    watch = WeightWatch(random_model)
    random_model.train()
    random_model(torch.tensor([[1, 2]])).logits.sum().backward()
    random_model.eval()
    random_model.state_dict()
    random_model.model.norm.weight.data = random_model.model.norm.weight.data.clone()
    assert watch.changed() is None
    holder = [torch.nn.Linear(2, 1)]
    watch = WeightWatch(holder[0])
    holder.clear()
    gc.collect()
    assert watch.changed() is None and all(reference() is None for _, reference, _ in watch._seen)
