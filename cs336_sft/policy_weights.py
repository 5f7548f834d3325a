"""The weights of a policy as an engine wants them: by their Hugging Face names, whatever the model is wrapped in.

Handled: ``torch.compile``, DistributedDataParallel and what accelerate's ``prepare`` makes, LoRA and QLoRA adapters of
PEFT (merged on the way out, the model stays as it is).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class PolicyTensor:
    """One tensor of the policy: its name and shape, and a function that gives its value."""

    name: str
    shape: tuple[int, ...]
    value: Callable[[], torch.Tensor]


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside ``torch.compile`` and data-parallel wrappers.

    >>> inner = torch.nn.Linear(2, 1)
    >>> unwrap(torch.compile(torch.nn.DataParallel(inner))) is inner
    True
    """
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            model = model.module
        else:
            return model


def policy_tensors(model: torch.nn.Module) -> list[PolicyTensor]:
    """Every parameter under its Hugging Face name; tied ones once; adapters merged into the weights they adapt.

    Raises:
        ConfigError: the weights are sharded over processes, or in a form without plain weights to give.

    >>> [(tensor.name, tensor.shape) for tensor in policy_tensors(torch.nn.Linear(2, 1))]
    [('weight', (1, 2)), ('bias', (1,))]
    """
    model = unwrap(model)
    if hasattr(model, "peft_config"):
        return _merged(model)
    return [_plain(name, parameter) for name, parameter in model.named_parameters()]


def weights(tensors: list[PolicyTensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values, one at a time, so that merged weights never lie in memory all at once."""
    for tensor in tensors:
        yield tensor.name, tensor.value()


def save_policy(tensors: list[PolicyTensor], folder: Path) -> None:
    """Write the weights as ``model.safetensors``, for an engine in another process."""
    from safetensors.torch import save_file

    values = {name: value.detach().contiguous() for name, value in weights(tensors)}
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})


def check_names(tensors: list[PolicyTensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """The policy must have exactly the tensors that the engine's model is made of: vLLM takes a partial list silently.

    Raises:
        ConfigError: a tensor is missing, unknown, or of another shape.

    >>> check_names(policy_tensors(torch.nn.Linear(2, 1)), {"weight": (1, 2)})
    Traceback (most recent call last):
        ...
    cs336_sft.errors.ConfigError: the policy does not fit the engine's model: it has bias (1,), which the engine has not. Remedy: start the engine from the same model.
    """  # noqa: E501
    given = {tensor.name: tensor.shape for tensor in tensors}
    for name in sorted({*given, *expected}):
        if given.get(name) == expected.get(name):
            continue
        if name not in given:
            fault = f"it lacks {name}"
        elif name not in expected:
            fault = f"it has {name} {given[name]}, which the engine has not"
        else:
            fault = f"{name} is {given[name]} in the policy and {expected[name]} in the engine"
        raise ConfigError(
            f"the policy does not fit the engine's model: {fault}", "start the engine from the same model"
        )


def expected_shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters of a Hugging Face model with this configuration; none is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


class WeightWatch:
    """Notices that a model's weights have changed since the watch began, without keeping the model alive.

    Every in-place operation of PyTorch counts up a tensor's ``_version``, those of all its optimizers included. What
    writes past that (``.data``, bitsandbytes' own kernels) is noticed by a few values of each parameter.

    >>> model = torch.nn.Linear(2, 1)
    >>> watch = WeightWatch(model)
    >>> watch.changed() is None
    True
    >>> _ = model.bias.data.add_(1.0)
    >>> watch.changed()
    'bias'
    """

    def __init__(self, model: torch.nn.Module) -> None:
        named = list(unwrap(model).named_parameters())
        self._seen = [(name, weakref.ref(p), _version(p), p.data_ptr()) for name, p in named]
        self._values = _few_values([p for _, p in named])

    def changed(self) -> str | None:
        """The name of a parameter that changed, or None. A model that was thrown away can't change."""
        alive = []
        for name, reference, version, address in self._seen:
            parameter = reference()
            if parameter is None:
                return None
            if _version(parameter) != version or parameter.data_ptr() != address:
                return name
            alive.append(parameter)
        values = _few_values(alive)
        for (name, *_), before, now in zip(self._seen, self._values, values, strict=True):
            if before != now:
                return name
        return None


def _few_values(parameters: list[torch.Tensor], count: int = 8) -> list[tuple[float, ...]]:
    """Some evenly spaced values of each tensor, brought to the host in one transfer a device."""
    parts = []
    for parameter in parameters:
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // count)
        parts.append(flat[::step][:count].to(torch.float64))
    host: list[tuple[float, ...]] = [()] * len(parts)
    for device in {part.device for part in parts}:
        indices = [i for i, part in enumerate(parts) if part.device == device]
        values = torch.cat([parts[i] for i in indices]).tolist()
        for i in indices:
            host[i], values = tuple(values[: len(parts[i])]), values[len(parts[i]) :]
    return host


def _version(parameter: torch.Tensor) -> int:
    return -1 if parameter.is_inference() else parameter._version


def _plain(name: str, parameter: torch.Tensor) -> PolicyTensor:
    if hasattr(parameter, "full_tensor"):
        raise ConfigError(f"{name} is sharded over processes", "gather the model first, or train with data parallelism")
    if not parameter.is_floating_point():
        raise ConfigError(f"{name} is quantised ({parameter.dtype})", "push a model with dense weights")
    return PolicyTensor(name.replace("_orig_mod.", ""), tuple(parameter.shape), parameter.detach)


def _merged(model: Any) -> list[PolicyTensor]:
    """The parameters of a PEFT model as they would be after ``merge_and_unload``, which would change the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = {str(getattr(config.peft_type, "value", config.peft_type)) for config in model.peft_config.values()}
    if kinds != {"LORA"}:
        raise ConfigError(f"a PEFT model of type {', '.join(sorted(kinds))} has no merged weights", "use LoRA")
    inner = model.get_base_model()
    tensors, done = [], []  # done: prefixes of modules that are dealt with as a whole
    for path, module in inner.named_modules():
        if any(path == prefix or path.startswith(f"{prefix}.") for prefix in done):
            continue
        if isinstance(module, AuxiliaryTrainingWrapper):  # a module that is trained whole, beside its original
            kept = (
                module.modules_to_save[module.active_adapters[0]] if module.active_adapters else module.original_module
            )
            tensors += [_plain(f"{path}.{name}", p) for name, p in kept.named_parameters()]
            done.append(path)
        elif isinstance(module, BaseTunerLayer):
            base = module.get_base_layer()
            for name, parameter in base.named_parameters():
                if name == "weight":
                    tensors.append(_adapted(f"{path}.weight", module))
                else:
                    tensors.append(_plain(f"{path}.{name}", parameter))
            done.append(path)
        else:
            prefix = f"{path}." if path else ""
            tensors += [_plain(f"{prefix}{name}", p) for name, p in module.named_parameters(recurse=False)]
    return tensors


def _adapted(name: str, layer: Any) -> PolicyTensor:
    """The weight of one layer with its active adapters added."""
    base = layer.get_base_layer()
    shape = tuple(base.weight.shape)
    if not base.weight.is_floating_point():
        shape = tuple(base.weight.quant_state.shape)

    def value() -> torch.Tensor:
        if layer.disable_adapters or layer.merged or not layer.active_adapters:
            return _dense(base)
        if base.weight.is_floating_point():
            merged = copy.deepcopy(layer)
            merged.merge()
            return merged.get_base_layer().weight.detach()
        if any(getattr(layer, "use_dora", {}).get(adapter) for adapter in layer.active_adapters):
            raise ConfigError(f"{name}: DoRA over quantised weights can't be merged", "use plain LoRA")
        # Merging into a 4-bit weight would round the sum to 4 bits again: add in full precision.
        dense = _dense(base)
        for adapter in layer.active_adapters:
            dense = dense + layer.get_delta_weight(adapter).detach().to(dense.dtype)
        return dense

    return PolicyTensor(name.replace("_orig_mod.", ""), shape, value)


def _dense(base: torch.nn.Module) -> torch.Tensor:
    if base.weight.is_floating_point():
        return base.weight.detach()
    from peft.utils.integrations import dequantize_module_weight

    return dequantize_module_weight(base).detach()
