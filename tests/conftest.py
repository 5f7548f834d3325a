"""Fixtures: a random Qwen2-architecture model of a few thousand parameters, its tokenizer, and a few problems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cs336_sft.data.gsm8k import write_problems
from cs336_sft.records import Problem

_CORPUS = [
    "Solve the problem step by step and put the final answer on the last line after ####.\n\nQuestion: ",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\n#### 24",
    "Tom has 3 boxes of 12 pencils. How many pencils does he have? Answer: 3*12 = <<3*12=36>>36\n#### 36",
]


@pytest.fixture(scope="session")
def tokenizer():
    """Byte-level BPE, digits split, `<|endoftext|>` is both pad and eos, as in the Qwen base models."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def make_random_model(tokenizer, hidden_size: int = 64):
    """Seeded: the same weights at every call. One matrix is embedding and head."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


@pytest.fixture
def random_model(tokenizer):
    """A fresh random model for each test, so that a test that trains it can't change another's."""
    return make_random_model(tokenizer)


@pytest.fixture
def small_run(tmp_path, random_model, tokenizer, problems) -> dict:
    """Settings of a fine-tuning run that takes a fraction of a second; model and problems are files in tmp_path."""
    folder, data = tmp_path / "model", tmp_path / "problems.jsonl"
    random_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_problems(data, problems)
    return {
        "model": str(folder),
        "data": str(data),
        "eval_data": str(data),
        "train_size": 8,
        "batch_size": 4,
        "max_steps": 2,
        "eval_size": 3,
        "max_new_tokens": 4,
        "eval_every": None,
    }


@pytest.fixture(scope="session")
def problems() -> list[Problem]:
    return [
        Problem(
            f"Tom has {a} boxes of {b} pencils. How many pencils does he have?",
            f"{a}*{b} = <<{a}*{b}={a * b}>>{a * b}\n#### {a * b}",
            str(a * b),
            id=f"fixture/{a}x{b}",
        )
        for a in range(2, 6)
        for b in (3, 7, 12)
    ]


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    """The folder with GSM8K's train.jsonl and test.jsonl; skips where CS336_GSM8K does not name one."""
    folder = os.environ.get("CS336_GSM8K")
    if not folder:
        pytest.skip("CS336_GSM8K is unset: it names the folder with GSM8K's train.jsonl and test.jsonl")
    return Path(folder)


@pytest.fixture(scope="session")
def qwen():
    """Qwen2.5's tokenizer, fetched or named by CS336_QWEN_TOKENIZER (its folder, or qwen.tiktoken); else skips."""
    from cs336_sft.data.download import fetched_folder, is_fetched

    path = os.environ.get("CS336_QWEN_TOKENIZER")
    if not path and not is_fetched("qwen-tokenizer"):
        pytest.skip("no Qwen tokenizer: run `cs336-sft fetch qwen-tokenizer`, or set CS336_QWEN_TOKENIZER")
    path = path or fetched_folder("qwen-tokenizer")
    from cs336_sft.data.qwen_tokenizer import load_qwen_tokenizer

    return load_qwen_tokenizer(path)


@pytest.fixture
def run_arguments(tmp_path, problems, random_model, tokenizer) -> list[str]:
    """Arguments of any run: the model's folder, twelve problems to train on and three to validate on."""
    random_model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_problems(tmp_path / "train.jsonl", problems)
    write_problems(tmp_path / "validation.jsonl", problems[:3])
    arguments = ["--model", tmp_path / "model", "--data", tmp_path / "train.jsonl", "--max-new-tokens", 8]
    arguments += ["--eval-data", tmp_path / "validation.jsonl", "--eval-size", 3, "--num-samples", 2]
    return [str(argument) for argument in arguments]
