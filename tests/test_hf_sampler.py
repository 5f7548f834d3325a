"""The Hugging Face sampler against a plain loop without padding or cache, and its conventions one by one."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import GenerationConfig

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.response_text import decode_response, find_completed_stop, response_text
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.generation.seeded_noise import gumbel, row_key
from cs336_sft.logprobs import compute_entropy
from cs336_sft.prompts import get_template

GREEDY = SamplingConfig(max_new_tokens=24)
SAMPLED = SamplingConfig(max_new_tokens=24, temperature=0.8, num_samples=3, seed=5, record_entropy=True)


@pytest.fixture
def prompts(problems) -> list[str]:
    """Of quite different lengths, so that padding matters."""
    return [get_template("gsm8k").prompt(p) if i % 2 else p.question[: 5 + 3 * i] for i, p in enumerate(problems)]


@pytest.fixture
def biased_model(random_model):
    """Ends its text with a probability of about one in ten, so that rows stop at different times."""

    def raise_eos(module, args, logits):
        logits = logits.clone()
        logits[..., 0] = logits.logsumexp(-1) - 2.2
        return logits

    random_model.lm_head.register_forward_hook(raise_eos)
    return random_model


def slow_reference(model, tokenizer, prompt: str, sampling: SamplingConfig, sample: int) -> tuple[int, ...]:
    """One sequence, no padding, no cache, no ``generate``."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    key = torch.tensor([row_key(sampling.seed, ids, sample)])
    new: list[int] = []
    while len(new) < sampling.max_new_tokens:
        with torch.no_grad():
            scores = model(torch.tensor([ids + new])).logits[0, -1].float()
        if len(new) < sampling.min_new_tokens:
            scores[tokenizer.eos_token_id] = -torch.inf
        if sampling.temperature > 0:
            scores = scores / sampling.temperature
            if sampling.top_p < 1:
                ordered, order = scores.softmax(-1).sort(descending=True)
                dropped = order[ordered.cumsum(0) - ordered >= sampling.top_p]
                scores[dropped] = -torch.inf
            scores = scores + gumbel(key, len(new), len(scores))[0]
        new.append(int(scores.argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    return tuple(new)


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_new_tokens=12),
        SamplingConfig(max_new_tokens=12, temperature=1.0, num_samples=2, seed=3),
        SamplingConfig(max_new_tokens=12, temperature=0.7, top_p=0.6, num_samples=2, seed=3),
        SamplingConfig(max_new_tokens=12, temperature=1.0, num_samples=2, seed=3, min_new_tokens=6),
    ],
    ids=["greedy", "sampled", "top_p", "min_new_tokens"],
)
def test_equals_a_plain_loop(biased_model, tokenizer, prompts, sampling) -> None:
    """Left padding, mask, positions and cache change nothing."""
    results = HFSampler(biased_model, tokenizer, batch_size=5).generate(prompts, sampling)
    for prompt, samples in zip(prompts, results, strict=True):
        assert [g.sample for g in samples] == list(range(sampling.num_samples))
        for generation in samples:
            assert generation.prompt == prompt
            assert generation.token_ids == slow_reference(biased_model, tokenizer, prompt, sampling, generation.sample)


def discrete(generation):
    return (generation.prompt, generation.sample, generation.token_ids, generation.text, generation.finish_reason)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "n=3"])
def test_order_and_batch_size_change_nothing(biased_model, tokenizer, prompts, sampling) -> None:
    expected = HFSampler(biased_model, tokenizer, batch_size=64).generate(prompts, sampling)
    rng = random.Random(0)
    for batch_size in (1, 3, 64):
        order = rng.sample(range(len(prompts)), len(prompts))
        results = HFSampler(biased_model, tokenizer, batch_size).generate([prompts[i] for i in order], sampling)
        for place, i in enumerate(order):
            assert list(map(discrete, results[place])) == list(map(discrete, expected[i]))
            for a, b in zip(results[place], expected[i], strict=True):
                if sampling.record_entropy:
                    assert a.entropies == pytest.approx(b.entropies, abs=1e-4)
                    assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_samples_differ_and_fewer_are_a_prefix_of_more(random_model, tokenizer) -> None:
    sampler = HFSampler(random_model, tokenizer)
    four = sampler.generate(["Tom has"], SamplingConfig(max_new_tokens=8, temperature=1.0, num_samples=4))[0]
    two = sampler.generate(["Tom has"], SamplingConfig(max_new_tokens=8, temperature=1.0, num_samples=2))[0]
    assert len({g.token_ids for g in four}) == 4
    assert four[:2] == two
    other = sampler.generate(["Tom has"], SamplingConfig(max_new_tokens=8, temperature=1.0, num_samples=2, seed=1))[0]
    assert {g.token_ids for g in other}.isdisjoint(g.token_ids for g in four)


def test_a_lower_limit_gives_a_prefix(biased_model, tokenizer, prompts) -> None:
    sampler = HFSampler(biased_model, tokenizer)
    long = sampler.generate(prompts, SamplingConfig(max_new_tokens=24, temperature=1.0))
    short = sampler.generate(prompts, SamplingConfig(max_new_tokens=7, temperature=1.0))
    assert [s[0].token_ids for s in short] == [g[0].token_ids[:7] for g in long]


def test_how_a_generation_ends(biased_model, tokenizer, prompts) -> None:
    eos = tokenizer.eos_token_id
    results = HFSampler(biased_model, tokenizer).generate(prompts, SAMPLED)
    generations = [g for samples in results for g in samples]
    assert {g.finish_reason for g in generations} == {"stop", "length"}
    for g in generations:
        assert eos not in g.token_ids[:-1]  # neither padding nor anything after the end
        assert (g.token_ids[-1] == eos) == (g.finish_reason == "stop")
        assert (len(g.token_ids) == 24) or g.finish_reason == "stop"
        assert g.stop_reason is None
        assert "<|endoftext|>" not in g.text
        assert g.text == decode_response(tokenizer, [t for t in g.token_ids if t != eos])
        assert len(g.logprobs) == len(g.entropies) == len(g.token_ids)


def test_recorded_numbers_are_the_models_own_at_temperature_1(biased_model, tokenizer, prompts) -> None:
    sampling = SamplingConfig(
        max_new_tokens=10, temperature=0.5, top_p=0.9, min_new_tokens=4, seed=2, record_entropy=True
    )
    for samples in HFSampler(biased_model, tokenizer).generate(prompts, sampling):
        g = samples[0]
        ids = tokenizer(g.prompt, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = biased_model(torch.tensor([ids + list(g.token_ids)])).logits[0, len(ids) - 1 : -1].float()
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(g.token_ids)[:, None])[:, 0]
        assert g.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
        assert g.entropies == pytest.approx(compute_entropy(logits).tolist(), abs=1e-4)


# Stop strings


def test_stop_string_cuts_the_text_and_keeps_the_ids(random_model, tokenizer, prompts) -> None:
    free = SamplingConfig(max_new_tokens=40, temperature=1.0, seed=1)
    stop = ("a", "er", "##")
    sampler = HFSampler(random_model, tokenizer, batch_size=4)
    stopped = sampler.generate(
        prompts,
        SamplingConfig(max_new_tokens=40, temperature=1.0, seed=1, stop=stop),
    )
    seen = set()
    for (full,), (g,) in zip(sampler.generate(prompts, free), stopped, strict=True):
        # Where it should have ended: the first prefix whose text holds a stop string.
        ends = [k for k in range(1, 41) if any(s in decode_response(tokenizer, full.token_ids[:k]) for s in stop)]
        seen.add(bool(ends))
        if not ends:
            assert (g.token_ids, g.text, g.finish_reason, g.stop_reason) == (*_tail(full), None)
            continue
        assert g.token_ids == full.token_ids[: ends[0]]
        assert g.finish_reason == "stop"
        text = decode_response(tokenizer, g.token_ids)
        at = text.index(g.stop_reason)
        assert g.text == text[: at + len(g.stop_reason)]
    assert True in seen


def _tail(g):
    return g.token_ids, g.text, g.finish_reason


def test_stop_string_completed_at_the_limit_is_a_stop(random_model, tokenizer) -> None:
    sampler = HFSampler(random_model, tokenizer)
    config = {"temperature": 1.0, "seed": 1}
    full = sampler.generate(["Tom has"], SamplingConfig(max_new_tokens=12, **config))[0][0]
    last = decode_response(tokenizer, full.token_ids)[len(decode_response(tokenizer, full.token_ids[:-1])) :]
    assert last and last not in decode_response(tokenizer, full.token_ids[:-1]), "choose another seed"
    g = sampler.generate(["Tom has"], SamplingConfig(max_new_tokens=12, stop=(last,), **config))[0][0]
    assert (g.finish_reason, g.stop_reason, g.token_ids) == ("stop", last, full.token_ids)


def test_stop_string_of_many_tokens_ends_a_row(random_model, tokenizer) -> None:
    """Found in the tail of the generation, which has to be long enough: nine tokens here."""
    sampler = HFSampler(random_model, tokenizer)
    config = {"max_new_tokens": 40, "temperature": 1.0, "seed": 1}
    full = sampler.generate(["Tom has"], SamplingConfig(**config))[0][0]
    start, end = (len(decode_response(tokenizer, full.token_ids[:k])) for k in (16, 25))
    long = full.text[start:end]
    g = sampler.generate(["Tom has"], SamplingConfig(stop=(long,), **config))[0][0]
    assert (g.token_ids, g.stop_reason, g.text) == (full.token_ids[:25], long, full.text[:end])


def test_stop_string_before_min_new_tokens_is_missed_for_good(random_model, tokenizer) -> None:
    sampler = HFSampler(random_model, tokenizer)
    config = {"max_new_tokens": 12, "temperature": 1.0, "seed": 1}
    full = sampler.generate(["Tom has"], SamplingConfig(min_new_tokens=6, **config))[0][0]
    early = decode_response(tokenizer, full.token_ids[:3])
    assert decode_response(tokenizer, full.token_ids).count(early) == 1
    g = sampler.generate(["Tom has"], SamplingConfig(min_new_tokens=6, stop=(early,), **config))[0][0]
    assert (g.token_ids, g.finish_reason, g.stop_reason) == (full.token_ids, "length", None)


def test_stop_string_spread_over_tokens_and_half_characters(tokenizer) -> None:
    ids = tokenizer("x </answer> y", add_special_tokens=False)["input_ids"]
    found = [k for k in range(1, len(ids) + 1) if find_completed_stop(tokenizer, ids[:k], ["</answer>"])]
    assert len(found) == 1
    assert find_completed_stop(tokenizer, ids[: found[0]], ["</answer>"]) == ("</answer>", "x </answer>")
    han = tokenizer("ab。", add_special_tokens=False)["input_ids"]  # three bytes, three tokens
    assert len(han) >= 4
    assert find_completed_stop(tokenizer, han[:-1], ["。"]) is None
    assert find_completed_stop(tokenizer, han, ["。"]) == ("。", "ab。")


def test_a_special_token_as_a_stop_string(random_model, tokenizer) -> None:
    """Special tokens are left out of the text, and still end a generation when asked to."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    config = {"max_new_tokens": 12, "temperature": 1.0, "seed": 1}
    full = HFSampler(random_model, tokenizer).generate(["Tom has"], SamplingConfig(**config))[0][0]
    turn, eos = tokenizer.convert_tokens_to_ids("<|turn|>"), tokenizer.eos_token_id
    assert decode_response(tokenizer, [*full.token_ids[:5], turn]) == decode_response(tokenizer, full.token_ids[:5])
    before = decode_response(tokenizer, full.token_ids[:5])
    found = response_text(tokenizer, [*full.token_ids[:5], turn], [eos], ["<|turn|>"])
    assert found == (before + "<|turn|>", "<|turn|>")
    # Another special token before the stop string stays out of the text as well.
    mixed = [*full.token_ids[:5], turn, *tokenizer("so##", add_special_tokens=False)["input_ids"]]
    assert find_completed_stop(tokenizer, mixed, ["##"]) == ("##", before + "so##")


@pytest.fixture
def chat_model(random_model):
    """Ends a turn with one of two ids, as Llama 3 and Gemma do: its configuration lists both."""

    def raise_both(module, args, logits):
        logits = logits.clone()
        logits[..., [0, 9]] = logits.logsumexp(-1, keepdim=True) - 2.2
        return logits

    random_model.lm_head.register_forward_hook(raise_both)
    random_model.generation_config = GenerationConfig(eos_token_id=[0, 9])
    return random_model


def test_stops_at_every_end_of_text_id_of_the_model(chat_model, tokenizer, prompts) -> None:
    sampling = SamplingConfig(max_new_tokens=24, temperature=1.0, num_samples=3, min_new_tokens=2)
    results = HFSampler(chat_model, tokenizer, batch_size=7).generate(prompts, sampling)
    stopped = [g for samples in results for g in samples if g.finish_reason == "stop"]
    assert {g.token_ids[-1] for g in stopped} == {0, 9}
    for g in stopped:
        assert not {0, 9} & set(g.token_ids[:-1]) and len(g.token_ids) > 2 and g.stop_reason is None
        assert g.text == decode_response(tokenizer, g.token_ids[:-1])
    chat_model.generation_config = GenerationConfig(eos_token_id=0)
    chat_model.config.eos_token_id = 0
    results = HFSampler(chat_model, tokenizer).generate(prompts, sampling)
    assert any(9 in g.token_ids[:-1] for samples in results for g in samples), "9 is an ordinary token again"


@pytest.mark.parametrize("family", ["GPT2", "OPT"])
def test_left_padding_of_models_with_absolute_positions(family, tokenizer, prompts) -> None:
    """A prompt's continuation does not depend on the padding beside it."""
    import transformers

    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if family == "GPT2":
        config = transformers.GPT2Config(n_positions=512, n_embd=64, n_layer=2, n_head=2, **shape)
    else:
        sizes = {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.OPTConfig(max_position_embeddings=512, word_embed_proj_dim=64, **sizes, **shape)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # positions that matter
        for name, parameter in model.named_parameters():
            if "wpe" in name or "embed_positions" in name:
                parameter.mul_(20)
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.0, num_samples=2, seed=3)
    for prompt, samples in zip(
        prompts, HFSampler(model, tokenizer, batch_size=32).generate(prompts, sampling), strict=True
    ):
        for generation in samples:
            assert generation.token_ids == slow_reference(model, tokenizer, prompt, sampling, generation.sample)


# The caller's model and tokenizer stay as they were, and their settings do not leak in


def test_generation_settings_of_the_model_do_not_leak_in(random_model, tokenizer, prompts) -> None:
    sampler = HFSampler(random_model, tokenizer)
    expected = sampler.generate(prompts, GREEDY)
    theirs = GenerationConfig(
        repetition_penalty=5.0,
        do_sample=True,
        temperature=2.0,
        top_k=3,
        no_repeat_ngram_size=2,
        eos_token_id=list(range(300)),
        suppress_tokens=list(range(1, 200)),
        max_length=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    random_model.generation_config = theirs
    assert sampler.generate(prompts, GREEDY) == expected
    assert random_model.generation_config is theirs


def test_training_mode_and_tokenizer_are_restored(random_model, tokenizer) -> None:
    random_model.train()
    random_model.model.layers[0].eval()  # frozen by the caller
    before = [module.training for module in random_model.modules()]
    side = tokenizer.padding_side
    HFSampler(random_model, tokenizer).generate(["a", "Tom has"], GREEDY)
    assert [module.training for module in random_model.modules()] == before
    assert tokenizer.padding_side == side
    assert torch.is_grad_enabled()
    random_model(torch.tensor([[1, 2]])).logits.sum().backward()


def test_dropout_is_off_while_sampling(random_model, tokenizer) -> None:
    random_model.config.attention_dropout = 0.5
    for layer in random_model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    random_model.train()
    sampler = HFSampler(random_model, tokenizer)
    assert sampler.generate(["Tom has"], GREEDY) == sampler.generate(["Tom has"], GREEDY)


def test_restored_after_an_error(random_model, tokenizer, monkeypatch) -> None:
    config = random_model.generation_config
    random_model.train()
    monkeypatch.setattr(random_model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        HFSampler(random_model, tokenizer).generate(["a"], GREEDY)
    assert random_model.training and random_model.generation_config is config


def test_follows_the_weights(random_model, tokenizer) -> None:
    sampler = HFSampler(random_model, tokenizer)
    before = sampler.generate(["Tom has"], GREEDY)
    with torch.no_grad():
        random_model.model.embed_tokens.weight.neg_()
    assert sampler.generate(["Tom has"], GREEDY) != before
    assert isinstance(sampler, Sampler)


# Input that can't be served


def test_limit_beyond_the_context_is_refused_before_anything_runs(random_model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(random_model, "generate", lambda **_: pytest.fail("it ran"))
    sampler = HFSampler(random_model, tokenizer)
    length = len(tokenizer("Tom has 3 boxes", add_special_tokens=False)["input_ids"])
    with pytest.raises(ContextLengthError) as caught:
        sampler.generate(["Tom", "Tom has 3 boxes"], SamplingConfig(max_new_tokens=513 - length))
    message = str(caught.value)
    assert f"prompt 1, {length} tokens) with max_new_tokens={513 - length}" in message
    assert "1 of 2 prompts" in message and "context of 512" in message and f"at most {512 - length}" in message
    with pytest.raises(ContextLengthError, match="shorten the prompt"):
        sampler.generate(["Tom has 3 boxes" * 200], SamplingConfig(max_new_tokens=1))


def test_exactly_full_context_runs(random_model, tokenizer) -> None:
    length = len(tokenizer("Tom has", add_special_tokens=False)["input_ids"])
    g = HFSampler(random_model, tokenizer).generate(
        ["Tom has"], SamplingConfig(max_new_tokens=512 - length, min_new_tokens=512 - length)
    )[0][0]
    assert len(g.token_ids) == 512 - length


def test_empty_inputs(random_model, tokenizer) -> None:
    sampler = HFSampler(random_model, tokenizer)
    assert sampler.generate([], GREEDY) == []
    with pytest.raises(DataError, match="prompt 1 is empty"):
        sampler.generate(["a", ""], GREEDY)
    with pytest.raises(ConfigError, match="list of strings"):
        sampler.generate("abc", GREEDY)


def test_disagreeing_end_of_text_is_refused(random_model, tokenizer) -> None:
    random_model.config.eos_token_id = 7
    with pytest.raises(ConfigError, match="id 0.*is 7"):
        HFSampler(random_model, tokenizer)
    random_model.config.eos_token_id = [7, 0]
    HFSampler(random_model, tokenizer)
    with pytest.raises(ConfigError, match="batch_size"):
        HFSampler(random_model, tokenizer, 0)
