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

    By a checksum over every bit of each parameter: reading 6 GB takes a GPU some milliseconds. PyTorch's own counter
    of in-place changes (``_version``) would not do: fused optimizers, like the one that `train_sft` uses, do not touch
    it, and neither does what writes through ``.data``.

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
        sums = _checksums([parameter for _, parameter in named])
        self._seen = [(name, weakref.ref(p), total) for (name, p), total in zip(named, sums, strict=True)]

    def changed(self) -> str | None:
        """The name of a parameter that changed, or None. A model that was thrown away can't change."""
        parameters = [reference() for _, reference, _ in self._seen]
        if any(parameter is None for parameter in parameters):
            return None
        for (name, _, before), now in zip(self._seen, _checksums(parameters), strict=True):
            if before != now:
                return name
        return None


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter's memory as whole numbers, of 64 bits where it divides by that: a quarter of the additions."""
    flat = parameter.detach().reshape(-1)
    size = flat.element_size()
    return flat.view(_INTEGERS[8 if flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0 else size])


def _checksums(parameters: list[torch.Tensor]) -> list[int]:
    """The sum of each tensor's bits read as whole numbers, brought to the host in one transfer a device."""
    sums = [_bits(parameter).sum(dtype=torch.int64) for parameter in parameters]
    host = [0] * len(sums)
    for device in {total.device for total in sums}:
        places = [place for place, total in enumerate(sums) if total.device == device]
        for place, value in zip(places, torch.stack([sums[place] for place in places]).tolist(), strict=True):
            host[place] = value
    return host


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
    tensors: list[PolicyTensor] = []
    done: list[str] = []  # prefixes of modules that are dealt with as a whole
    seen: set[int] = set()  # tied parameters count once, as in `named_parameters`

    def add(name: str, parameter: torch.Tensor) -> None:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            tensors.append(_plain(name, parameter))

    for path, module in inner.named_modules():
        if any(path == prefix or path.startswith(f"{prefix}.") for prefix in done):
            continue
        prefix = f"{path}." if path else ""
        if isinstance(module, AuxiliaryTrainingWrapper):  # a module that is trained whole, beside its original
            active = module.active_adapters
            kept = module.modules_to_save[active[0]] if active else module.original_module
            for name, parameter in kept.named_parameters():
                add(f"{prefix}{name}", parameter)
            done.append(path)
        elif isinstance(module, BaseTunerLayer):
            for name, parameter in module.get_base_layer().named_parameters():
                if name == "weight":
                    tensors.append(_adapted(f"{prefix}weight", module))
                else:
                    add(f"{prefix}{name}", parameter)
            done.append(path)
        else:
            for name, parameter in module.named_parameters(recurse=False):
                add(f"{prefix}{name}", parameter)
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
