"""New weights in a running engine: it computes what the new policy computes, and never with old weights in silence."""

from __future__ import annotations

import gc

import psutil
import pytest
import torch

from cs336_sft.data.word_problems import generate_problems
from cs336_sft.errors import ConfigError, StaleEngineError
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.vllm_backend.weights import policy_tensors
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import collate, make_examples

GREEDY = SamplingConfig(max_new_tokens=60, record_entropy=True)


def train(policy, tokenizer, steps: int, seed: int = 0) -> None:
    examples = make_examples(generate_problems(8 * steps, split="train", seed=seed), get_template("gsm8k"), tokenizer)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=5e-4)
    for step in range(steps):
        batch = collate(examples[8 * step : 8 * step + 8], tokenizer.pad_token_id)
        logits = policy(input_ids=batch.input_ids).logits
        torch.nn.functional.cross_entropy(logits[batch.response_mask], batch.labels[batch.response_mask]).backward()
        optimizer.step()
        optimizer.zero_grad()


def tokens(results) -> list[tuple[int, ...]]:
    return [g.token_ids for samples in results for g in samples]


def assert_same(engine, hf) -> list[tuple[int, ...]]:
    """The same tokens, with the same log-probabilities."""
    assert tokens(engine) == tokens(hf)
    for a, b in zip(engine, hf, strict=True):
        assert a[0].logprobs == pytest.approx(b[0].logprobs, abs=1e-3)
    return tokens(engine)


def test_five_rounds_of_training_and_sync(sampler, policy, base, prompts) -> None:
    """Each time: stale until synced, then Hugging Face's outputs of the new weights and not those of the old."""
    version, hf = sampler.policy_version, HFSampler(policy, base[1])
    old = tokens(sampler.generate(prompts, GREEDY))
    for number in range(5):
        train(policy, base[1], steps=2, seed=number)
        with pytest.raises(StaleEngineError, match=rf"policy version {version + number}: .*update_weights"):
            sampler.generate(prompts, GREEDY)
        sampler.update_weights(policy)
        assert sampler.policy_version == version + number + 1
        new = assert_same(sampler.generate(prompts, GREEDY), hf.generate(prompts, GREEDY))
        assert sum(a != b for a, b in zip(new, old, strict=True)) >= len(prompts) // 4
        old = new


def test_the_prefix_cache_holds_nothing_of_the_old_weights(sampler, policy, base, prompts) -> None:
    """A prompt of several cache blocks (128 tokens each) that was computed before the sync."""
    long = [" ".join(prompts[i : i + 5]) for i in range(0, 20, 5)]
    assert min(len(base[1](p)["input_ids"]) for p in long) > 256
    before = tokens(sampler.generate(long, SamplingConfig(max_new_tokens=30)))
    train(policy, base[1], steps=4)
    sampler.update_weights(policy)
    after = tokens(sampler.generate(long, SamplingConfig(max_new_tokens=30)))
    assert after == tokens(HFSampler(policy, base[1]).generate(long, SamplingConfig(max_new_tokens=30))) != before


def test_syncs_do_not_eat_memory(sampler, policy) -> None:
    """Twenty syncs take less than two copies of the weights more."""
    for _ in range(3):
        sampler.update_weights(policy)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(20):
        sampler.update_weights(policy)
    gc.collect()
    size = sum(p.numel() * p.element_size() for p in policy.parameters())
    assert psutil.Process().memory_info().rss - before < 2 * size


def test_the_engine_does_not_alias_the_trainers_tensors(sampler, policy, base, prompts) -> None:
    before = sampler.generate(prompts[:8], GREEDY)
    train(policy, base[1], steps=2)
    sampler._watch = None  # look behind the check
    assert sampler.generate(prompts[:8], GREEDY) == before


def test_a_partial_or_foreign_set_of_tensors_is_refused(sampler, policy, monkeypatch) -> None:
    tensors = policy_tensors(policy)
    monkeypatch.setattr("cs336_sft.generation.vllm_backend.sampler.policy_tensors", lambda model: tensors[:-1])
    with pytest.raises(ConfigError, match="model.norm.weight is missing in the policy"):
        sampler.update_weights(policy)
    with pytest.raises(StaleEngineError, match="cut short"):
        sampler.generate(["a"], GREEDY)
    monkeypatch.undo()
    sampler.update_weights(policy)
    sampler.generate(["a"], GREEDY)


def wrappers() -> dict:
    from accelerate import Accelerator

    return {
        "compile": lambda model: torch.compile(model),
        "data parallel": torch.nn.DataParallel,
        "accelerate": lambda model: Accelerator(mixed_precision="bf16", cpu=True).prepare(model),
    }


@pytest.mark.parametrize("name", ["compile", "data parallel", "accelerate"])
def test_wrapped_models(sampler, policy, base, prompts, name) -> None:
    train(policy, base[1], steps=2)
    expected = tokens(HFSampler(policy, base[1]).generate(prompts[:16], GREEDY))
    sampler.update_weights(wrappers()[name](policy))
    assert tokens(sampler.generate(prompts[:16], GREEDY)) == expected


def test_lora_adapters_are_merged_on_the_way(sampler, policy, base, prompts) -> None:
    from peft import LoraConfig, get_peft_model

    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    torch.manual_seed(0)
    model = get_peft_model(policy, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    train(model, base[1], steps=4)
    sampler.update_weights(model)
    got = sampler.generate(prompts, GREEDY)
    for name, parameter in model.named_parameters():  # the policy stays a LoRA model, its base as it was
        if "lora" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
            assert torch.equal(parameter, before[plain])
    assert_same(got, HFSampler(model.merge_and_unload(), base[1]).generate(prompts, GREEDY))
    sampler._watch = None
