"""The vLLM sampler against the Hugging Face sampler: the same records, token by token."""

from __future__ import annotations

import copy
import random

import pytest

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import Sampler, SamplingConfig

SETTINGS = {
    "greedy": SamplingConfig(max_new_tokens=80),
    "sampled": SamplingConfig(max_new_tokens=40, temperature=1.0, n=3, seed=4),
    "top_p": SamplingConfig(max_new_tokens=40, temperature=0.7, top_p=0.6, n=2, seed=1),
    "min tokens": SamplingConfig(max_new_tokens=60, temperature=1.3, seed=2, min_new_tokens=50),
    "stop": SamplingConfig(max_new_tokens=60, temperature=1.0, stop=("=", ". "), seed=3),
    "stop, cut": SamplingConfig(max_new_tokens=60, stop=("\n", " is"), include_stop_str_in_output=False),
    "stop, min tokens": SamplingConfig(max_new_tokens=60, stop=("=", "."), min_new_tokens=12),
}


def discrete(results) -> list[tuple]:
    return [
        (g.prompt, g.token_ids, g.text, g.finish_reason, g.stop_reason, g.sample)
        for samples in results
        for g in samples
    ]


@pytest.mark.parametrize("sampling", SETTINGS.values(), ids=SETTINGS)
def test_same_records_as_the_hugging_face_sampler(sampler, policy, base, prompts, sampling) -> None:
    """In float32 all of them: tokens, text, how it ended; sampled ones too, for the noise is the same."""
    expected = discrete(HFSampler(policy, base[1]).generate(prompts, sampling))
    assert discrete(sampler.generate(prompts, sampling)) == expected
    reasons = {g[3] for g in expected}
    assert "stop" in reasons, "the setting shows nothing"
    if sampling.stop:
        assert {g[4] for g in expected} & set(sampling.stop)


def test_log_probabilities_and_entropies_are_the_hugging_face_samplers(sampler, policy, base, prompts) -> None:
    sampling = SamplingConfig(
        max_new_tokens=40, temperature=0.8, top_p=0.9, n=2, seed=4, min_new_tokens=10, record_entropy=True
    )
    expected = HFSampler(policy, base[1]).generate(prompts[:16], sampling)
    for samples, others in zip(sampler.generate(prompts[:16], sampling), expected, strict=True):
        for a, b in zip(samples, others, strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-3)
            assert a.entropies == pytest.approx(b.entropies, abs=1e-3)
            assert len(a.entropies) == len(a.token_ids)


def test_order_and_company_change_nothing(sampler, prompts) -> None:
    sampling = SETTINGS["sampled"]
    expected = sampler.generate(prompts, sampling)
    order = random.Random(0).sample(range(len(prompts)), 20)
    assert sampler.generate([prompts[i] for i in order], sampling) == [expected[i] for i in order]
    assert sampler.generate([prompts[3]] * 2, sampling) == [expected[3]] * 2
    one = SamplingConfig(max_new_tokens=40, temperature=1.0, n=1, seed=4)
    assert sampler.generate(prompts[:4], one) == [samples[:1] for samples in expected[:4]]


def test_stops_at_the_tokenizers_end_of_text_and_at_no_other(sampler, policy, base, prompts, monkeypatch) -> None:
    """The folder's end-of-text (id 0) is an ordinary token for a tokenizer that ends its texts with another one."""
    tokenizer = copy.deepcopy(base[1])
    (newline,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(newline)
    policy.config.eos_token_id = [0, newline]
    monkeypatch.setattr(sampler, "tokenizer", tokenizer)
    sampling = SamplingConfig(max_new_tokens=60, temperature=1.5, n=4)
    got = sampler.generate(prompts[:16], sampling)
    assert discrete(got) == discrete(HFSampler(policy, tokenizer).generate(prompts[:16], sampling))
    ends = [g.token_ids[-1] for samples in got for g in samples if g.finish_reason == "stop"]
    assert set(ends) == {newline}
    assert any(0 in g.token_ids[:-1] for samples in got for g in samples), "no text ran over id 0: try another seed"


def test_over_long_prompts_are_refused_before_anything_runs(sampler, prompts, monkeypatch) -> None:
    monkeypatch.setattr(sampler.engines[0], "submit", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ContextLengthError) as caught:
        sampler.generate([*prompts, prompts[0] * 4], SamplingConfig(max_new_tokens=300))
    message = str(caught.value)
    assert "1 of 65 prompts" in message and "prompt 64" in message
    assert "max_model_len=512" in message and "raise max_model_len to at least" in message
    with pytest.raises(ContextLengthError, match="65 of 65|64 of 64"):
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
    with pytest.raises(ConfigError, match="leave out one"):
        sampler.generate(["a"], SamplingConfig(record_entropy=True, min_new_tokens=1, stop=("x",)))
