"""The output head of a causal language model, taken apart: ``logits = after(hidden @ weight.T + bias)``.

``after`` is nothing in most families, a factor in some and a soft cap in others; unknown architectures are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cs336_sft.errors import ConfigError, DataError

_CAPPED = ("gemma2", "gemma3_text", "gemma4_text", "nanochat", "vaultgemma")
# model_type -> what it does to its logits, and the field of its configuration that says by how much.
_AFTER = {
    **dict.fromkeys(_CAPPED, ("cap", "final_logit_softcapping")),
    **dict.fromkeys(("cohere", "cohere2"), ("multiply", "logit_scale")),
    **dict.fromkeys(("granite", "granitemoe", "granitemoeshared"), ("divide", "logits_scaling")),
}
# Architectures whose logits are what the head gives; read in the code of transformers 5.19, and tested.
_PLAIN = frozenset(
    """apertus arcee bloom codegen deepseek_v2 deepseek_v3 diffllama ernie4_5 ernie4_5_moe exaone4 falcon flex_olmo
    gemma gemma3 glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj helium hunyuan_v1_dense lfm2 llama
    minimax ministral mistral mixtral mpt nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2 qwen2_moe
    qwen3 qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3 stablelm starcoder2""".split()
)
KNOWN_ARCHITECTURES = tuple(sorted(_PLAIN | set(_AFTER)))


@dataclass(frozen=True)
class OutputHead:
    """How hidden states become logits: ``cap * tanh(scale * module(hidden) / cap)``."""

    module: nn.Module  # maps [..., H] to [..., V]; usually a torch.nn.Linear, perhaps tied to the embedding
    scale: float = 1.0
    cap: float | None = None
    autocast: torch.dtype | None = None  # in which autocast runs the head, None where it is off

    @property
    def is_linear(self) -> bool:
        """Tell a plain matrix product from a quantised, LoRA or hooked module."""
        module = self.module
        plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        return plain and not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))

    def after(self, logits: torch.Tensor) -> torch.Tensor:
        """Do what the model does to the module's output."""
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def find_head_module(model: nn.Module) -> nn.Module | None:
    """Return the module that makes the logits, or None for a model that names none."""
    get = getattr(unwrapped(model), "get_output_embeddings", None)
    return get() if get else None


def run_to_head(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, OutputHead]:
    """Run a model's forward up to its output head, whose logits are never made.

    The model may be wrapped by PEFT, DistributedDataParallel or torch.compile. ``inputs`` are its forward's, such as
    ``input_ids [B, T]``. Returns the hidden states ``[B, T, H]`` that go into the head, with their graph, and the head.
    Raises ConfigError: the model names no head, calls it in another way than once, or its architecture is not known.
    Raises DataError: an id outside of the vocabulary.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes))
    >>> hidden, head = run_to_head(model, {"input_ids": torch.tensor([[1, 2, 3]])})
    >>> hidden.shape, torch.equal(head.module(hidden), model(torch.tensor([[1, 2, 3]])).logits)
    (torch.Size([1, 3, 8]), True)
    """
    bare = unwrapped(model)
    bare = bare.get_base_model() if hasattr(bare, "get_base_model") else bare  # below PEFT's wrapper, too
    module = find_head_module(model)
    if module is None:
        raise ConfigError(f"{type(bare).__name__} has no get_output_embeddings", "use a causal language model")
    scale, cap = _after(bare)
    check_ids(bare, inputs.get("input_ids"))  # before they move: ids on the CPU cost no waiting for a GPU
    device = next(bare.parameters()).device
    inputs = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    if "use_cache" in inspect.signature(type(bare).forward).parameters:
        inputs = {"use_cache": False, **inputs}
    with _kept_input(module) as calls:
        getattr(model, "_orig_mod", model)(**inputs)  # a compiled model would trace the replacement into its graph
    if len(calls) != 1:
        problem = f"{type(bare).__name__} called its output head {len(calls)} times in one forward"
        raise ConfigError(problem, "use a model that computes its logits by calling get_output_embeddings() once")
    [(hidden, autocast)] = calls
    ids = inputs.get("input_ids")
    if ids is not None and hidden.shape[:-1] != ids.shape:
        problem = f"{type(bare).__name__} has {tuple(hidden.shape[:-1])} positions for ids {tuple(ids.shape)}"
        raise ConfigError(problem, "use a model without prompt tuning, which gives each position one hidden state")
    return hidden, OutputHead(module, scale, cap, autocast)


def _after(model: nn.Module) -> tuple[float, float | None]:
    """Read ``(scale, cap)`` from the configuration of a model of a known architecture."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    # Also below FSDP's and quantisation's classes, which take over the forward of transformers.
    own = not str(type(model).forward.__module__).startswith("transformers.")
    if own or kind not in KNOWN_ARCHITECTURES:
        what = f"with a forward of {type(model).forward.__module__}" if own else f"of the architecture {kind!r}"
        problem = f"{type(model).__name__}, {what}: what it does to its logits is not known"
        raise ConfigError(problem, f"compute from its logits, or use one of {', '.join(KNOWN_ARCHITECTURES)}")
    if kind in _PLAIN:
        return 1.0, None
    how, field = _AFTER[kind]
    value = getattr(model.config, field)
    if how == "cap":
        return 1.0, value
    return (1.0 / value if how == "divide" else value), None


def check_ids(model: nn.Module, ids: torch.Tensor | None) -> None:
    """Refuse an id that the embedding lacks: on a GPU it would end the process."""
    vocabulary = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if ids is None or vocabulary is None or not ids.numel():
        return
    if ids.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # a graph is recorded with ids that mean nothing
    low, high = torch.stack(ids.aminmax()).tolist()
    if low < 0 or high >= vocabulary:
        problem = f"input_ids holds {low if low < 0 else high}, the model's vocabulary ends at {vocabulary - 1}"
        raise DataError(problem, "tokenize and pad with the tokenizer that belongs to the model")


@contextmanager
def _kept_input(module: nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.dtype | None]]]:
    """Replace a module's forward by one that keeps its input in the list."""
    calls: list[tuple[torch.Tensor, torch.dtype | None]] = []

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kind = hidden.device.type
        calls.append((hidden, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None))
        return hidden.new_zeros(*hidden.shape[:-1], 0)

    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield calls
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile's and the data-parallel wrappers."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model
