from __future__ import annotations

from copy import deepcopy
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.errors import ConfigError
from cs336_sft.prompts import TEMPLATE_NAMES, get_template
from cs336_sft.records import Example, Problem
from cs336_sft.tokenization import collate, count_targets, encode, make_examples, padding_id, tokenize_prompt_and_output

EOS = 0
# Few ids, so that real tokens often equal the padding.
ids = st.lists(st.integers(0, 3), max_size=6).map(tuple)
examples = st.builds(Example, ids, ids)


class Letters:
    """A token is a character: a = 1, b = 2, ...; pad and eos are both 0."""

    pad_token_id = eos_token_id = EOS

    def __call__(self, texts, **kwargs):
        return {"input_ids": [[ord(character) - 96 for character in text] for text in texts]}


def padded_by_hand(sequences: list[Example], pad_id: int) -> dict[str, list[list[int]]]:
    """What the tensors must be, cell by cell."""
    width = max((len(s.prompt_ids) + len(s.response_ids) for s in sequences), default=0)
    result = {"input_ids": [], "labels": [], "response_mask": [], "attention_mask": []}
    for s in sequences:
        tokens = list(s.prompt_ids) + list(s.response_ids)
        cells = [(token, i >= len(s.prompt_ids), True) for i, token in enumerate(tokens)]
        cells += [(pad_id, False, False)] * (width - len(tokens))
        result["input_ids"].append([token for token, _, _ in cells[:-1]])
        result["labels"].append([token for token, _, _ in cells[1:]])
        result["response_mask"].append([response for _, response, _ in cells[1:]])
        result["attention_mask"].append([real for _, _, real in cells[:-1]])
    return result


def as_lists(batch) -> dict[str, list[list[int]]]:
    return {field.name: getattr(batch, field.name).tolist() for field in fields(batch)}


@given(st.lists(examples, min_size=1, max_size=5), st.integers(0, 3))
@settings(deadline=None)
def test_collate_equals_the_oracle(sequences, pad_id):
    batch = collate(sequences, pad_id)
    assert as_lists(batch) == padded_by_hand(sequences, pad_id)
    assert [getattr(batch, f.name).dtype for f in fields(batch)] == [torch.long, torch.long, torch.bool, torch.bool]
    assert count_targets(sequences) == batch.response_mask.sum().item()


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=4), st.booleans())
@settings(deadline=None)
def test_tokenize_equals_the_oracle(tokenizer, pairs, append_eos):
    prompts, outputs = zip(*pairs, strict=True)
    got = tokenize_prompt_and_output(prompts, outputs, tokenizer, append_eos=append_eos)
    sequences = []
    for prompt, output in pairs:
        response = tokenizer.backend_tokenizer.encode(output).ids + [tokenizer.eos_token_id] * append_eos
        sequences.append(Example(tuple(tokenizer.backend_tokenizer.encode(prompt).ids), tuple(response)))
    expected = padded_by_hand(sequences, tokenizer.pad_token_id)
    del expected["attention_mask"]
    assert {name: tensor.tolist() for name, tensor in got.items()} == expected


def test_handout_contract_by_hand():
    got = tokenize_prompt_and_output(["ab", "c"], ["cd", "e"], Letters())
    assert {name: tensor.tolist() for name, tensor in got.items()} == {
        "input_ids": [[1, 2, 3], [3, 5, 0]],  # the shorter row keeps its last token here
        "labels": [[2, 3, 4], [5, 0, 0]],
        "response_mask": [[False, True, True], [True, False, False]],  # no end-of-text unless it is asked for
    }
    assert [tensor.dtype for tensor in got.values()] == [torch.long, torch.long, torch.bool]


def test_handout_snapshot_with_the_qwen_tokenizer(qwen):
    """The ids of the assignment's own test inputs under Qwen2.5-Math's tokenizer."""
    texts = ["Hello, world!", "This is a test.", "This is another test."]
    got = tokenize_prompt_and_output(texts, texts, qwen)
    hello, a_test, another = [9707, 11, 1879, 0], [1986, 374, 264, 1273, 13], [1986, 374, 2441, 1273, 13]
    assert got["input_ids"].tolist() == [[*hello, *hello, 151643], a_test + a_test[:-1], another + another[:-1]]
    assert got["labels"].tolist() == [[*hello[1:], *hello, 151643, 151643], a_test[1:] + a_test, another[1:] + another]
    assert got["response_mask"].int().tolist() == [[0, 0, 0, 1, 1, 1, 1, 0, 0]] + [[0, 0, 0, 0, 1, 1, 1, 1, 1]] * 2


def test_eos_is_supervised_and_padding_is_not_though_they_are_one_id():
    got = tokenize_prompt_and_output(["a", "a"], ["bcd", "b"], Letters(), append_eos=True)
    assert got["labels"].tolist() == [[2, 3, 4, EOS], [2, EOS, EOS, EOS]]
    assert got["response_mask"].int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("prompt", "output", "append_eos", "labels", "mask"),
    [
        ("ab", "", False, [2], [0]),
        ("ab", "", True, [2, EOS], [0, 1]),
        ("", "ab", False, [2], [1]),  # nothing stands before "a" to predict it from
        ("", "a", False, [], []),
        ("", "a", True, [EOS], [1]),
        ("", "", False, [], []),
        ("", "", True, [], []),
        ("a", "b", False, [2], [1]),
    ],
)
def test_empty_parts_and_batch_of_one(prompt, output, append_eos, labels, mask):
    got = tokenize_prompt_and_output([prompt], [output], Letters(), append_eos=append_eos)
    assert got["labels"].tolist() == [labels]
    assert got["response_mask"].int().tolist() == [mask]
    assert got["input_ids"].shape == got["labels"].shape


def test_empty_batch(tokenizer):
    assert tokenize_prompt_and_output([], [], tokenizer)["input_ids"].shape == (0, 0)
    assert collate([], pad_id=0).response_mask.shape == (0, 0)


def test_no_special_tokens_are_added(tokenizer):
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    adding = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    assert len(adding("Tom")["input_ids"]) == len(tokenizer("Tom")["input_ids"]) + 2
    got = tokenize_prompt_and_output(["Tom has"], [" 3 boxes"], adding)
    expected = tokenize_prompt_and_output(["Tom has"], [" 3 boxes"], tokenizer)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_prompt_and_output_are_tokenized_apart(tokenizer):
    apart = encode(["penc", "ils"], tokenizer)
    assert apart[0] + apart[1] != encode(["pencils"], tokenizer)[0], "choose a word that is one token"
    got = tokenize_prompt_and_output(["penc"], ["ils"], tokenizer)
    assert got["labels"].tolist() == [(apart[0] + apart[1])[1:]]


def test_the_tokenizers_own_padding_and_truncation_are_not_used(tokenizer):
    other = deepcopy(tokenizer)
    other.padding_side = "left"
    other.backend_tokenizer.enable_padding(length=64)
    other.backend_tokenizer.enable_truncation(3)
    texts = ["Tom has 3 boxes", "Natalia sold 48 clips in May."]
    assert encode(texts, other) == [tokenizer.backend_tokenizer.encode(text).ids for text in texts]


def adding_bos(tokenizer):
    """A tokenizer that begins every text with <bos>, as Llama's and Gemma's do."""
    from tokenizers import processors

    other = deepcopy(tokenizer)
    other.add_special_tokens({"bos_token": "<bos>"})
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", other.bos_token_id)]
    )
    return other


def test_a_tokenizers_own_bos_begins_the_prompt_and_nothing_else(tokenizer):
    from cs336_sft.generation.response_text import encode_prompts

    other, prompt, output = adding_bos(tokenizer), "Tom has", " 3 boxes"
    bos = other.bos_token_id
    assert other(prompt)["input_ids"][0] == bos
    got = tokenize_prompt_and_output([prompt, ""], [output, output], other)
    begun = [bos, *encode([prompt], tokenizer)[0]]
    expected = [begun + encode([output], tokenizer)[0], [bos, *encode([output], tokenizer)[0]]]
    assert got["input_ids"][0].tolist() == expected[0][:-1]
    assert got["labels"][1].tolist()[: len(expected[1]) - 1] == expected[1][1:]
    assert got["response_mask"][1].tolist()[: len(expected[1]) - 1] == [True] * (len(expected[1]) - 1)
    assert encode_prompts(other, [prompt]) == [tuple(begun)], "sampling and training must agree"
    [example] = make_examples([Problem("5?", "#### 5", "5")], get_template("gsm8k"), other)
    assert example.prompt_ids[0] == bos and bos not in example.response_ids + example.prompt_ids[1:]
    # A tokenizer that names a BOS but does not put it in front (GPT-2's) is left as it is.
    named = deepcopy(tokenizer)
    named.add_special_tokens({"bos_token": "<bos>"})
    assert encode([prompt], named, add_bos=True) == encode([prompt], tokenizer)
    below = Letters()
    below.bos_token_id = 0  # below the ids of all letters, and not put in front either
    assert encode(["ab"], below, add_bos=True) == [[1, 2]]


def smollm2_like(tokenizer):
    """<|im_end|> is end-of-text, and a token of the vocabulary."""
    other = deepcopy(tokenizer)
    other.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
    return other


@pytest.mark.parametrize("kind", ["embedded", "smollm2-like", "qwen"])
def test_special_tokens_written_in_a_problem_are_plain_text(kind, tokenizer, request):
    chosen = {"embedded": lambda: tokenizer, "smollm2-like": lambda: smollm2_like(tokenizer)}.get(
        kind, lambda: request.getfixturevalue("qwen")
    )()
    special = "".join(chosen.all_special_tokens)
    problem = Problem(f"Tom writes {special} twice?", f"He writes {special}.\n#### 2", "2")
    assert set(chosen(special, add_special_tokens=False)["input_ids"]) == set(chosen.all_special_ids)
    [example] = make_examples([problem], get_template("gsm8k"), chosen)
    assert not set(chosen.all_special_ids) & set(example.prompt_ids + example.response_ids[:-1])
    assert example.response_ids[-1] == chosen.eos_token_id
    assert chosen.decode(example.response_ids[:-1]) == " " + problem.answer
    with pytest.raises(ConfigError, match="append_eos=True"):
        tokenize_prompt_and_output(["a"], ["b" + chosen.eos_token], chosen)
    # The tokenizer itself is as it was.
    assert set(chosen(special, add_special_tokens=False)["input_ids"]) == set(chosen.all_special_ids)


def test_padding_id():
    assert padding_id(SimpleNamespace(pad_token_id=7, eos_token_id=5), vocab_size=8) == 7
    with pytest.raises(ConfigError, match="pad id 8 is beyond the model's 8 embeddings"):
        padding_id(SimpleNamespace(pad_token_id=8, eos_token_id=5), vocab_size=8)
    with pytest.raises(ConfigError, match="pad_id is -100"):
        collate([Example((1,), (2,))], pad_id=-100)
    assert padding_id(SimpleNamespace(pad_token_id=0, eos_token_id=5)) == 0
    assert padding_id(SimpleNamespace(pad_token_id=None, eos_token_id=5)) == 5
    with pytest.raises(ConfigError, match="neither a pad nor an eos"):
        padding_id(SimpleNamespace(pad_token_id=None, eos_token_id=None))


def test_pad_id_is_used_where_it_differs_from_eos():
    letters = Letters()
    letters.pad_token_id, letters.eos_token_id = 0, 30
    got = tokenize_prompt_and_output(["a", "a"], ["bc", "b"], letters, append_eos=True)
    assert got["labels"].tolist() == [[2, 3, 30], [2, 30, 0]]


def test_tensors_share_no_memory():
    """Setting labels to -100 in place, as some losses want it, must not change the inputs; batch 1 is a view trap."""
    for sequences in ([Example((1, 2), (3,))], [Example((1, 2), (3,)), Example((1,), ())]):
        batch = collate(sequences, pad_id=0)
        before = batch.input_ids.clone()
        batch.labels.fill_(-100)
        batch.response_mask.fill_(False)
        assert torch.equal(batch.input_ids, before)
        assert batch.attention_mask.any()
        assert all(getattr(batch, field.name).is_contiguous() for field in fields(batch))


def test_bad_arguments():
    letters = Letters()
    with pytest.raises(ConfigError, match="2 prompts but 1 outputs"):
        tokenize_prompt_and_output(["a", "b"], ["c"], letters)
    for arguments in (("abc", ["a", "b", "c"]), (["a", "b", "c"], "abc")):
        with pytest.raises(ConfigError, match="list of strings"):
            tokenize_prompt_and_output(*arguments, letters)
    letters.eos_token_id = None
    with pytest.raises(ConfigError, match="no eos"):
        tokenize_prompt_and_output(["a"], ["b"], letters, append_eos=True)
    assert tokenize_prompt_and_output(["a"], ["b"], letters)["labels"].tolist() == [[2]]


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_make_examples(tokenizer, problems, name):
    template = get_template(name)
    made = make_examples(problems, template, tokenizer)
    assert len(made) == len(problems)
    for problem, example in zip(problems, made, strict=True):
        assert tokenizer.decode(example.prompt_ids) == template.prompt(problem)
        assert example.response_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(example.response_ids[:-1]) == template.respond(problem)
    without = make_examples(iter(problems), template, tokenizer, append_eos=False)
    assert [example.response_ids + (tokenizer.eos_token_id,) for example in without] == [e.response_ids for e in made]


def test_collated_examples_equal_the_handout_form(tokenizer, problems):
    template = get_template("gsm8k")
    batch = collate(make_examples(problems, template, tokenizer), padding_id(tokenizer))
    prompts, outputs = [template.prompt(p) for p in problems], [template.respond(p) for p in problems]
    handout = tokenize_prompt_and_output(prompts, outputs, tokenizer, append_eos=True)
    for name, tensor in handout.items():
        assert torch.equal(getattr(batch, name), tensor)
    lengths = [len(example) for example in make_examples(problems, template, tokenizer)]
    assert batch.input_ids.shape == (len(problems), max(lengths) - 1)
    # A row of full length has lost its last token from the inputs, any other has all of its tokens there.
    assert batch.attention_mask.sum(1).tolist() == [min(length, max(lengths) - 1) for length in lengths]
