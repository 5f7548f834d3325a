"""One function that makes a sampler of either kind, for commands and loops that let the user choose."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cs336_sft.errors import ConfigError
from cs336_sft.generation.vllm_backend.config import VLLMConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cs336_sft.generation.hf_sampler import HFSampler
    from cs336_sft.generation.vllm_backend.sampler import VLLMSampler

SamplerKind = Literal["hf", "vllm"]
SAMPLER_KINDS: tuple[SamplerKind, ...] = ("hf", "vllm")


def make_sampler(
    kind: SamplerKind,
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    source: str | Path | None = None,
    batch_size: int | None = None,
    vllm: VLLMConfig | None = None,
    progress: bool = False,
) -> HFSampler | VLLMSampler:
    """A sampler that continues prompts with ``model``.

    Both kinds have `generate` and `update_weights`; ``sampler.close()`` ends an engine, and a ``with`` block does so
    by itself. To use the weights of a model that is being trained call ``sampler.update_weights(model)`` before each
    `generate`: vLLM needs it, the Hugging Face sampler does not mind.

    Args:
        kind: ``"hf"`` or ``"vllm"``.
        model: the policy. None with vLLM: the weights of ``source`` as they are.
        source: with vLLM the folder or hub name to start the engine from. Left out: the model is written to a
            temporary folder for that.
        batch_size: rows that the Hugging Face sampler generates at once.
        vllm: the engine's settings.

    Raises:
        ConfigError: another kind; no model where one is needed; vLLM is missing or does not start.

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
        raise ConfigError(f"no sampler is called {kind!r}", f"choose one of {', '.join(SAMPLER_KINDS)}")
    from cs336_sft.generation.vllm_backend.runtime import import_vllm
    from cs336_sft.generation.vllm_backend.sampler import VLLMSampler

    import_vllm()  # before a model is written to disk for nothing
    if source is not None:
        sampler = VLLMSampler(source, tokenizer, vllm, progress=progress)
    elif model is not None:
        with tempfile.TemporaryDirectory(prefix="cs336-model-") as folder:
            save_for_engine(model, Path(folder))
            sampler = VLLMSampler(folder, tokenizer, vllm, progress=progress)
    else:
        raise ConfigError("vLLM has neither a model nor a source", "give one")
    if model is not None:
        try:
            sampler.update_weights(model)
        except BaseException:
            sampler.close()
            raise
    return sampler


def save_for_engine(model: PreTrainedModel, folder: Path) -> None:
    """A model folder with the policy's weights: configuration and safetensors, adapters merged, wrappers left out."""
    from cs336_sft.generation.vllm_backend.weights import policy_tensors, save_policy, unwrap

    unwrap(model).config.save_pretrained(folder)
    save_policy(policy_tensors(model), folder)
