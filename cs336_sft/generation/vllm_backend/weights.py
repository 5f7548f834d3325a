"""The weights of a policy, by their Hugging Face names, whatever wraps the model: read, watched, put into an engine."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError
from cs336_sft.model.output_head import unwrapped

if TYPE_CHECKING:
    from transformers import PretrainedConfig

EXTENSION = "cs336_sft.generation.vllm_backend.weights.PolicySync"


@dataclass(frozen=True)
class PolicyTensor:
    """One tensor of the policy: its name and shape, and a function that returns its value."""

    name: str
    shape: tuple[int, ...]
    value: Callable[[], torch.Tensor]


def policy_tensors(model: torch.nn.Module) -> list[PolicyTensor]:
    """List every parameter under its Hugging Face name, LoRA adapters added.

    Raises ConfigError: the weights are sharded over processes, or in a form without plain weights.
    """
    model = unwrapped(model)
    if hasattr(model, "peft_config"):
        for config in model.peft_config.values():
            kind = str(getattr(config.peft_type, "value", config.peft_type))
            if kind != "LORA" or config.use_dora or config.modules_to_save:
                raise ConfigError("only plain LoRA adapters can be merged into the engine's weights", "use plain LoRA")
        model = model.get_base_model()
    tensors = []
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        if ".lora_" in name:
            continue
        plain_name = name.replace("_orig_mod.", "").replace(".base_layer.", ".")
        if path.endswith(".base_layer") and leaf == "weight":
            tensors.append(_adapted(plain_name, model.get_submodule(path.removesuffix(".base_layer"))))
            continue
        if hasattr(parameter, "full_tensor"):
            raise ConfigError(f"{name} is sharded over processes", "gather the model, or train with data parallelism")
        if not parameter.is_floating_point():
            raise ConfigError(f"{name} is quantised ({parameter.dtype})", "push a model with dense weights")
        tensors.append(PolicyTensor(plain_name, tuple(parameter.shape), parameter.detach))
    return tensors


def _adapted(name: str, layer: Any) -> PolicyTensor:
    """Make the tensor of one layer's weight with its active adapters added."""
    base = layer.get_base_layer()
    quantised = not base.weight.is_floating_point()
    shape = tuple(base.weight.quant_state.shape if quantised else base.weight.shape)

    def value() -> torch.Tensor:
        dense = base.weight.detach()
        if quantised:
            from peft.utils.integrations import dequantize_module_weight

            dense = dequantize_module_weight(base).detach()
        if layer.disable_adapters or layer.merged:
            return dense
        for adapter in layer.active_adapters:  # in full precision: merging into 4-bit weights would round again
            dense = dense + layer.get_delta_weight(adapter).detach().to(dense.dtype)
        return dense

    return PolicyTensor(name, shape, value)


def weights(tensors: list[PolicyTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and values, so that only one merged weight is in memory at a time."""
    return ((tensor.name, tensor.value()) for tensor in tensors)


def save_policy(tensors: list[PolicyTensor], folder: Path) -> None:
    """Write the weights as ``model.safetensors``, for an engine in another process."""
    from safetensors.torch import save_file

    values = {name: value.detach().contiguous() for name, value in weights(tensors)}
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


def check_names(tensors: list[PolicyTensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a policy without exactly the engine's tensors, as vLLM does not."""
    given = {tensor.name: tensor.shape for tensor in tensors}
    for name in sorted({*given, *expected}):
        own, engines = given.get(name, "missing"), expected.get(name, "missing")
        if own != engines:
            problem = f"the policy does not fit the engine: {name} is {own} in the policy, {engines} in the engine"
            raise ConfigError(problem, "start the engine from the same model")


def expected_shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the parameters of a Hugging Face model."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # nothing is allocated
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


class WeightWatch:
    """Notices that a model's weights have changed since the watch began, without keeping the model alive.

    It compares checksums: fused optimizers do not touch PyTorch's own counter of in-place changes (``_version``).
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._seen = [(name, weakref.ref(p), _checksum(p)) for name, p in unwrapped(model).named_parameters()]

    def changed(self) -> str | None:
        """Name a parameter that changed. None: none did, or the model is gone."""
        for name, reference, before in self._seen:
            parameter = reference()
            if parameter is not None and _checksum(parameter) != before:
                return name
        return None


def _checksum(parameter: torch.Tensor) -> int:
    """Add up the bits of a parameter, read as whole numbers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return int(parameter.detach().reshape(-1).view(integers[parameter.element_size()]).sum(dtype=torch.int64))


class PolicySync:
    """Takes new weights inside vLLM's worker, into whose class vLLM mixes this one (``worker_extension_cls``)."""

    def load_policy(self, path: str | None = None, weights: Iterable[tuple[str, torch.Tensor]] | None = None) -> None:
        """Replace all weights, by those of a folder or by the given ones."""
        self.reload_weights(weights_path=path, weights_iterator=None if weights is None else iter(weights))
        if self.device.type == "cpu":
            # On a CPU the output head multiplies with a packed copy of its weight. With tied embeddings that weight is
            # not loaded by a name of its own, so its copy is not renewed: the head would silently go on with the old.
            from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

            for module in self.get_model().modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)
