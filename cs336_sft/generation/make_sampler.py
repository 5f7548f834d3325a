"""A sampler of either kind, for commands and loops that let the user choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cs336_sft.errors import ConfigError
from cs336_sft.generation.vllm_backend.config import VLLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cs336_sft.generation.hf_sampler import HFSampler
    from cs336_sft.generation.vllm_backend.sampler import VLLMSampler


def make_sampler(
    kind: Literal["hf", "vllm"],
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    source: str | Path | None = None,
    batch_size: int | None = None,
    vllm: VLLMConfig | None = None,
    progress: bool = False,
) -> HFSampler | VLLMSampler:
    """Make a sampler that continues prompts with ``model``.

    Use it in a ``with`` block, which ends an engine. With vLLM ``source`` is the folder or hub name to start from, and
    without a ``model`` its weights are used as they are. ``batch_size`` is the Hugging Face sampler's.
    Raises ConfigError: no such kind, no model or source where one is needed, or vLLM does not start.

    >>> from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
    >>> with make_sampler("hf", *load_model_and_tokenizer(embedded_model_path())) as sampler:
    ...     type(sampler).__name__
    'HFSampler'
    """
    if kind == "hf":
        from cs336_sft.generation.hf_sampler import HFSampler

        if model is None:
            raise ConfigError("the Hugging Face sampler has no model", "give one")
        return HFSampler(model, tokenizer, batch_size, progress=progress)
    if kind != "vllm":
        raise ConfigError(f"no sampler is called {kind!r}", "choose one of hf, vllm")
    from cs336_sft.generation.vllm_backend.sampler import VLLMSampler

    if source is None:
        raise ConfigError("vLLM has no folder or hub name to start from", "give source")
    sampler = VLLMSampler(source, tokenizer, vllm, progress=progress)
    try:
        if model is not None:
            sampler.update_weights(model)
    except BaseException:
        sampler.close()
        raise
    return sampler
