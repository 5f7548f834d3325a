"""The output head of a causal language model, taken apart: what goes into it, and what happens to its logits.

A model ends in ``logits = after(hidden @ weight.T + bias)``, where ``after`` is nothing in most models, a factor in
some (Granite, Cohere), and a soft cap in others (Gemma 2: ``cap * tanh(z / cap)``). To work on the logits in chunks
one needs ``hidden`` and ``after``, and never the logits. Neither is to be had from a model by name: each family calls
its settings differently. So the model itself is asked: its forward runs with a stand-in for the head, which keeps the
hidden states that reach it and answers with a dozen known numbers instead of ``[B, T, V]`` logits. What the model
makes of these numbers is ``after``; if it is neither a factor nor a soft cap, the model is refused.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cs336_sft.errors import ConfigError

_PROBES = (0.0, 1e-3, -1e-3, 0.25, 1.0, -1.0, 2.0, -7.0, 30.0, -100.0, 1e4, 1e6)


@dataclass(frozen=True)
class OutputHead:
    """How hidden states become logits: ``cap * tanh(scale * module(hidden) / cap)``.

    Attributes:
        module: maps ``[..., H]`` to ``[..., V]``; usually a ``torch.nn.Linear``, perhaps tied to the embedding.
        scale: factor on its output; 1.0 in most models.
        cap: soft cap of the logits, or None for none.
        autocast: dtype in which autocast runs the head, or None where autocast is off.
    """

    module: nn.Module
    scale: float = 1.0
    cap: float | None = None
    autocast: torch.dtype | None = None

    @property
    def is_linear(self) -> bool:
        """Whether ``module`` is a plain matrix product; a quantised or LoRA-wrapped head is not."""
        return isinstance(self.module, nn.Linear) and type(self.module).forward is nn.Linear.forward

    def autocasting(self, device: torch.device) -> torch.autocast | nullcontext:
        """The autocast state that the model ran its head in."""
        if self.autocast is None:
            return torch.autocast(device.type, enabled=False)
        return torch.autocast(device.type, dtype=self.autocast)

    def after(self, logits: torch.Tensor) -> torch.Tensor:
        """What the model does to the module's output.

        >>> OutputHead(nn.Identity(), scale=2.0, cap=30.0).after(torch.tensor([1.0, 1e6]))
        tensor([ 1.9970, 30.0000])
        """
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def find_head_module(model: nn.Module) -> nn.Module | None:
    """The module that makes the logits, or None for a model that names none (not a Hugging Face one)."""
    inner = _unwrapped(model)
    try:
        get = inner.get_output_embeddings
    except AttributeError:
        return None
    return get()


def run_to_head(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, OutputHead]:
    """Run a model up to its output head.

    Args:
        model: a Hugging Face causal language model; also wrapped by PEFT, DistributedDataParallel or accelerate.
        inputs: keyword arguments of its forward. ``use_cache=False`` is added where the forward knows it.

    Returns:
        ``(hidden, head)``: the ``[B, T, H]`` states that the model gave to its head, with their graph, and the head.

    Raises:
        ConfigError: the model has no head, does not call it exactly once, or changes its logits afterwards in a way
            that is neither a factor nor a soft cap.

    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = Qwen2ForCausalLM(Qwen2Config(vocab_size=100, num_key_value_heads=1, **sizes))
    >>> hidden, head = run_to_head(model, {"input_ids": torch.tensor([[1, 2, 3]])})
    >>> tuple(hidden.shape), head.scale, head.cap
    ((1, 3, 8), 1.0, None)
    """
    module = find_head_module(model)
    if module is None:
        raise ConfigError(
            f"{type(model).__name__} has no get_output_embeddings(), so its output head can't be found",
            "give a causal language model of transformers",
        )
    # An OptimizedModule would trace the stand-in into its graph: what it wraps runs instead.
    model = getattr(model, "_orig_mod", model)
    if "use_cache" in inspect.signature(_forward_of(model)).parameters:
        inputs = {"use_cache": False, **inputs}
    with _stand_in(module) as calls:
        try:
            logits = model(**inputs).logits
        except Exception as error:
            if not calls:
                raise
            raise ConfigError(
                f"{type(_unwrapped(model)).__name__} changes its logits in a way that can't be followed: {error}",
                "use a model whose logits are at most scaled or soft-capped",
            ) from error
    if len(calls) != 1:
        raise ConfigError(
            f"{type(_unwrapped(model)).__name__} called its output head {len(calls)} times in one forward",
            "use a model that computes its logits by calling get_output_embeddings() once",
        )
    (hidden, autocast), (scale, cap) = calls[0], _read_after(model, logits)
    return hidden, OutputHead(module, scale, cap, autocast)


@contextmanager
def _stand_in(module: nn.Module) -> Iterator[list[tuple[torch.Tensor, torch.dtype | None]]]:
    """While it lasts, calling ``module`` keeps its input in the list and gives the probes, ``[B, T, P]``."""
    calls: list[tuple[torch.Tensor, torch.dtype | None]] = []

    def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        kind = hidden.device.type
        calls.append((hidden, torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None))
        # On the CPU, so that reading them makes nobody wait for the GPU; float64, so that a factor is read exactly.
        return torch.tensor(_PROBES, dtype=torch.float64).expand(*hidden.shape[:-1], -1)

    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield calls
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def _read_after(model: nn.Module, logits: torch.Tensor) -> tuple[float, float | None]:
    """``(scale, cap)`` from what the model made of the probes; all positions were treated alike or it is refused."""
    found = logits.reshape(-1, logits.shape[-1])
    if not len(found):
        found = logits.new_tensor([_PROBES])
    answers = found[0].tolist() if (found == found[0]).all() else []  # a model may also have cut some columns off

    def fits(function: Any) -> bool:
        return all(
            math.isclose(answer, function(probe), rel_tol=1e-5, abs_tol=1e-9)
            for answer, probe in zip(answers, _PROBES, strict=True)
        )

    if len(answers) == len(_PROBES):
        scale = answers[_PROBES.index(1.0)]
        if scale and fits(lambda z: scale * z):
            return scale, None
        cap = answers[_PROBES.index(1e6)]
        if cap > 0 and abs(answers[1]) < cap:
            scale = cap * math.atanh(answers[1] / cap) / _PROBES[1]
            if abs(scale - 1.0) < 1e-5:  # what a model that casts to float32 leaves of 1
                scale = 1.0
            if scale and fits(lambda z: cap * math.tanh(scale * z / cap)):
                return scale, cap
    raise ConfigError(
        f"{type(_unwrapped(model)).__name__} turns logits {list(_PROBES)} into "
        f"{answers or 'values that differ from position to position'}",
        "use a model whose logits are at most scaled or soft-capped",
    )


def _unwrapped(model: nn.Module) -> nn.Module:
    """Inside the wrappers that keep the model under another name: torch.compile's and the data-parallel ones."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _forward_of(model: nn.Module) -> Any:
    """The forward whose signature names the arguments: below PEFT's, which takes anything."""
    inner = _unwrapped(model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return type(inner).forward  # accelerate replaces the instance's own
