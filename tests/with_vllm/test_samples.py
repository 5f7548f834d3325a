"""The vLLM sampler: greedy records equal the Hugging Face sampler's, samples keep the promises of `Sampler`."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter

import pytest
import torch

from cs336_sft.errors import ContextLengthError, DataError
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import Sampler, SamplingConfig

GREEDY = {
    "plain": SamplingConfig(max_new_tokens=80),
    "min tokens": SamplingConfig(max_new_tokens=60, min_new_tokens=50),
    "stop": SamplingConfig(max_new_tokens=60, stop=("=", ". ")),
    "other stop": SamplingConfig(max_new_tokens=60, stop=("\n", " is")),
    "stop, min tokens": SamplingConfig(max_new_tokens=60, stop=("=", "."), min_new_tokens=12),
}
SAMPLED = SamplingConfig(max_new_tokens=40, temperature=1.0, num_samples=3, seed=4)


def discrete(results) -> list[tuple]:
    return [
        (g.prompt, g.token_ids, g.text, g.finish_reason, g.stop_reason, g.sample)
        for samples in results
        for g in samples
    ]


@pytest.mark.parametrize("sampling", GREEDY.values(), ids=GREEDY)
def test_same_greedy_records_as_the_hugging_face_sampler(sampler, policy, base, prompts, sampling) -> None:
    """In float32 all of them: tokens, text, how it ended."""
    expected = discrete(HFSampler(policy, base[1]).generate(prompts, sampling))
    assert discrete(sampler.generate(prompts, sampling)) == expected
    reasons = {g[3] for g in expected}
    assert "stop" in reasons, "the setting shows nothing"
    if sampling.stop:
        assert {g[4] for g in expected} & set(sampling.stop)


def test_log_probabilities_are_the_models_at_temperature_1(sampler, policy, base, prompts) -> None:
    """Before temperature, top-p and forbidden tokens, whatever was sampled."""
    sampling = SamplingConfig(
        max_new_tokens=40, temperature=0.8, top_p=0.9, num_samples=2, seed=4, min_new_tokens=10, record_entropy=True
    )
    for prompt, samples in zip(prompts[:16], sampler.generate(prompts[:16], sampling), strict=True):
        ids = base[1](prompt, add_special_tokens=False)["input_ids"]
        for g in samples:
            with torch.no_grad():
                logits = policy(torch.tensor([[*ids, *g.token_ids]])).logits[0, len(ids) - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor([g.token_ids]).T)[:, 0]
            assert g.logprobs == pytest.approx(expected.tolist(), abs=1e-3)
            assert g.entropies is None


def test_samples_are_reproducible_and_distinct_and_their_neighbours_change_nothing(sampler, prompts) -> None:
    expected = sampler.generate(prompts, SAMPLED)
    assert sampler.generate(prompts, SAMPLED) == expected
    order = random.Random(0).sample(range(len(prompts)), 20)
    assert sampler.generate([prompts[i] for i in order], SAMPLED) == [expected[i] for i in order]
    assert sampler.generate([prompts[3]] * 2, SAMPLED) == [expected[3]] * 2
    one = SamplingConfig(max_new_tokens=40, temperature=1.0, num_samples=1, seed=4)
    assert sampler.generate(prompts[:4], one) == [samples[:1] for samples in expected[:4]]
    different = sum(len({g.token_ids for g in samples}) for samples in expected)
    assert different > 2.5 * len(prompts), "three samples of a prompt are hardly ever the same"
    other = sampler.generate(prompts, SamplingConfig(max_new_tokens=40, temperature=1.0, num_samples=3, seed=5))
    same = sum(
        a.token_ids == b.token_ids for x, y in zip(expected, other, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert same < 0.2 * 3 * len(prompts)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_samples_have_the_models_distribution(sampler, policy, base, prompts, top_p) -> None:
    """The first token of 2,000 samples against the softmax of ``logits / T``, cut at top-p."""
    sampling = SamplingConfig(max_new_tokens=1, temperature=1.4, top_p=top_p, num_samples=2000, seed=1)
    ids = base[1](prompts[0], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = (policy(torch.tensor([ids])).logits[0, -1] / 1.4).softmax(-1)
    ordered, order = expected.sort(descending=True)
    expected[order[ordered.cumsum(0) - ordered >= top_p]] = 0
    expected /= expected.sum()
    counts = Counter(g.token_ids[0] for g in sampler.generate(prompts[:1], sampling)[0])
    assert all(expected[token] > 0 for token in counts)
    for token, probability in enumerate(expected.tolist()):
        deviation = math.sqrt(2000 * probability * (1 - probability)) + 0.5
        assert abs(counts[token] - 2000 * probability) < 5 * deviation


def test_stops_at_the_tokenizers_end_of_text_and_at_the_models(sampler, policy, base, prompts, monkeypatch) -> None:
    tokenizer = copy.deepcopy(base[1])
    (newline,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(newline)
    monkeypatch.setattr(sampler, "tokenizer", tokenizer)
    greedy = SamplingConfig(max_new_tokens=60)
    ends = {}
    for name, listed in (("both", [0, newline]), ("newline alone", newline)):
        policy.config.eos_token_id = policy.generation_config.eos_token_id = listed
        sampler.update_weights(policy)
        got = discrete(sampler.generate(prompts, greedy))
        assert got == discrete(HFSampler(policy, tokenizer).generate(prompts, greedy))
        sampled = sampler.generate(prompts, SamplingConfig(max_new_tokens=60, temperature=1.5, num_samples=2))
        ends[name] = [g for samples in sampled for g in samples if g.finish_reason == "stop"]
    assert {g.token_ids[-1] for g in ends["both"]} == {0, newline}
    assert not any({0, newline} & set(g.token_ids[:-1]) for g in ends["both"])
    assert {g.token_ids[-1] for g in ends["newline alone"]} == {newline}
    assert any(0 in g.token_ids[:-1] for g in ends["newline alone"]), "no text ran over id 0: try another seed"

    # Id 0 ends no text now. Its special token, which no text shows, still can as a stop string.
    sampling = SamplingConfig(max_new_tokens=60, temperature=1.5, num_samples=2, stop=("<|endoftext|>",))
    stopped = [g for samples in sampler.generate(prompts, sampling) for g in samples if g.stop_reason]
    assert stopped and all(g.token_ids.index(0) == len(g.token_ids) - 1 for g in stopped)
    assert all(g.text == tokenizer.decode(g.token_ids[:-1]) + "<|endoftext|>" for g in stopped)


def test_over_long_prompts_are_refused_before_anything_runs(sampler, prompts, monkeypatch) -> None:
    monkeypatch.setattr(sampler.engine, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ContextLengthError) as caught:
        sampler.generate([*prompts, prompts[0] * 4], SamplingConfig(max_new_tokens=300))
    message = str(caught.value)
    assert "1 of 65 prompts" in message and "prompt 64" in message
    assert "max_model_len of 512" in message and "raise max_model_len to at least" in message
    with pytest.raises(ContextLengthError, match="64 of 64"):
        sampler.generate(prompts, SamplingConfig(max_new_tokens=512))


def test_a_full_context_runs(sampler, prompts) -> None:
    length = len(sampler.tokenizer(prompts[0], add_special_tokens=False)["input_ids"])
    rest = 512 - length
    ((g,),) = sampler.generate(prompts[:1], SamplingConfig(max_new_tokens=rest, min_new_tokens=rest))
    assert len(g.token_ids) == rest


def test_other_input_that_cannot_be_served(sampler) -> None:
    assert isinstance(sampler, Sampler)
    assert sampler.generate([], SamplingConfig()) == []
    with pytest.raises(DataError, match="prompt 1 is empty"):
        sampler.generate(["a", ""], SamplingConfig())
