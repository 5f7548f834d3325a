"""The settings of a LoRA or QLoRA adapter, checked when they are made; no library is needed to state them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cs336_sft.errors import ConfigError

# All linear layers of a block, by the names that Qwen2, Llama and OLMo 2 use. Adapting the attention alone is known
# to be worse (Dettmers et al., "QLoRA", 2023, section 4).
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class AdapterConfig:
    """A low-rank adapter (Hu et al., "LoRA", 2021): ``W x`` becomes ``W x + (alpha / r) B A x``; A and B are trained.

    Attributes:
        r: rank of the update: A is ``[r, in]``, B is ``[out, r]`` and starts at 0, so training starts at the model.
        alpha: the update is scaled by ``alpha / r``.
        dropout: share of the adapter's inputs that is dropped in training.
        targets: names of the linear layers that get an adapter.
        quantize: keep the frozen weights of those layers in 4 bits (NF4, double quantization; Dettmers et al.,
            "QLoRA", 2023) and compute in bfloat16 or float32.

    Raises:
        ConfigError: a field out of range; the message names the field, the value and the remedy.

    >>> AdapterConfig(r=8, alpha=16).scaling
    2.0
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = LINEAR_LAYERS
    quantize: bool = False

    def __post_init__(self) -> None:
        def demand(ok: bool, field: str, remedy: str) -> None:
            if not ok:
                raise ConfigError(f"AdapterConfig.{field} is {getattr(self, field)!r}", remedy)

        whole = isinstance(self.r, int) and not isinstance(self.r, bool)
        demand(whole and self.r >= 1, "r", "give a whole number of at least 1")
        demand(_is_number(self.alpha) and self.alpha > 0, "alpha", "give a positive number")
        demand(_is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", "give a number from 0 to below 1")
        demand(
            isinstance(self.targets, tuple)
            and len(self.targets) > 0
            and all(isinstance(name, str) and name for name in self.targets),
            "targets",
            f"give a tuple of layer names, such as {LINEAR_LAYERS[:2]}",
        )
        demand(isinstance(self.quantize, bool), "quantize", "give True or False")

    @property
    def scaling(self) -> float:
        """What the product of the two small matrices is multiplied by."""
        return self.alpha / self.r

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """The inverse of ``to_dict``. Fields that are left out have their defaults.

        Raises:
            ConfigError: a field that does not exist, or a value out of range.

        >>> AdapterConfig.from_dict({"rank": 8})
        Traceback (most recent call last):
        ...
        cs336_sft.errors.ConfigError: AdapterConfig has no field 'rank'. Remedy: choose from r, alpha, ...
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"AdapterConfig has no field {name!r}", f"choose from {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
