"""Everything that one fine-tuning run is made of, in one flat vocabulary: what a sweep varies and a run is named by.

    settings = make_settings({"profile": "tiny", "lr": 1e-4, "batch": 8, "train_size": 512, "eos": False})
    run_name(settings)                                   # 'full_n512_b8_lr1e-4_ep3_noeos_s0'

What is left out has the profile's value. The data and the evaluation stand beside ``SFTConfig``, which stays the
configuration of the training loop alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.model.lora_config import AdapterConfig
from cs336_sft.training.config import SFTConfig

Method = Literal["full", "lora", "qlora"]
Test = Literal["last", "best"]
SamplerKind = Literal["hf", "vllm"]

# Short names that people type -> the field's own name. `order_seed` is the seed of the training loop.
ALIASES = {
    "lr": "learning_rate",
    "batch": "batch_size",
    "micro_batch": "micro_batch_size",
    "eos": "append_eos",
    "weights": "weights_dtype",
}
_ADAPTER_FIELDS = {f"lora_{item.name}": item.name for item in fields(AdapterConfig) if item.name != "quantize"}
# What does not change a number of the run: neither a setting of a sweep nor part of a run's name.
_NOT_SETTINGS = ("checkpoint_every", "keep_checkpoints", "trackers", "progress", "seed")
_SFT_FIELDS = tuple(item.name for item in fields(SFTConfig) if item.name not in _NOT_SETTINGS)


@dataclass(frozen=True)
class RunSettings:
    """One run: data, model, training and evaluation.

    Attributes:
        profile: name of the profile that gives the defaults, the model and the problems.
        sft: settings of the training loop; ``sft.seed`` is the seed of the order of the examples.
        train_size: number of training problems, or ``"full"``: all of GSM8K's train part that is not held out, and
            ``Profile.full_size`` of the generated problems.
        subset_seed: which training problems are taken. For one seed smaller sets are parts of larger ones.
        append_eos: whether the end-of-text token is among the targets.
        limit: generation limit of the evaluations, in tokens.
        eval_size: validation problems; always the same ones, whatever the seeds.
        test: measure on the test split at the end: with the weights after the ``"last"`` step, or with those of the
            evaluation that was ``"best"`` on the validation problems (accuracy; of equal ones the earliest).
        adapter: train a LoRA adapter in place of all weights; see ``AdapterConfig``.
        sampler: what generates the answers, ``"hf"`` or ``"vllm"``.
        eval_batch_size: rows that the Hugging Face sampler generates together; None: its default.
        model, template: in place of the profile's.
        data, eval_data: training and evaluation problems from elsewhere; see ``Profile.problems``.

    Raises:
        ConfigError: a field out of range.
    """

    profile: str = "tiny"
    sft: SFTConfig = field(default_factory=SFTConfig)
    train_size: int | Literal["full"] = 512
    subset_seed: int = 0
    append_eos: bool = True
    limit: int = 160
    eval_size: int = 256
    test: Test | None = None
    adapter: AdapterConfig | None = None
    sampler: SamplerKind = "hf"
    eval_batch_size: int | None = None
    model: str | None = None
    template: str | None = None
    data: str | None = None
    eval_data: str | None = None

    def __post_init__(self) -> None:
        def demand(ok: bool, name: str, remedy: str) -> None:
            if not ok:
                raise ConfigError(f"the setting {name} is {getattr(self, name)!r}", remedy)

        get_profile(self.profile)
        count = "give a whole number of at least 1"
        demand(self.train_size == "full" or _is_count(self.train_size), "train_size", f"{count}, or 'full'")
        demand(_is_count(self.subset_seed, 0), "subset_seed", "give a whole number of at least 0")
        demand(isinstance(self.append_eos, bool), "append_eos", "give true or false")
        for name in ("limit", "eval_size"):
            demand(_is_count(getattr(self, name)), name, count)
        demand(self.eval_batch_size is None or _is_count(self.eval_batch_size), "eval_batch_size", count)
        demand(self.test is None or self.test in get_args(Test), "test", "choose 'last' or 'best', or leave it out")
        demand(self.sampler in get_args(SamplerKind), "sampler", "choose 'hf' or 'vllm'")
        for name in ("model", "template", "data", "eval_data"):
            demand(getattr(self, name) is None or isinstance(getattr(self, name), str), name, "give a text")

    @property
    def method(self) -> Method:
        """``full``, ``lora`` or ``qlora``."""
        if self.adapter is None:
            return "full"
        return "qlora" if self.adapter.quantize else "lora"

    def to_flat(self) -> dict[str, Any]:
        """All settings as one flat dictionary of JSON values; ``make_settings`` is the inverse.

        >>> flat = RunSettings().to_flat()
        >>> flat["learning_rate"], flat["method"], flat["order_seed"], "lora_r" in flat
        (0.0001, 'full', 0, False)
        """
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("sft", "adapter")}
        training = self.sft.to_dict()
        flat = own | {name: training[name] for name in _SFT_FIELDS}
        flat |= {"order_seed": self.sft.seed, "method": self.method}
        if self.adapter is not None:
            adapter = self.adapter.to_dict()
            flat |= {name: adapter[inner] for name, inner in _ADAPTER_FIELDS.items()}
        return flat


def setting_names() -> tuple[str, ...]:
    """Every name that a sweep may set, aliases left out."""
    own = (item.name for item in fields(RunSettings) if item.name not in ("sft", "adapter"))
    return (*own, *_SFT_FIELDS, "order_seed", "method", *_ADAPTER_FIELDS)


def canonical(name: str) -> str:
    """The full name of a setting.

    Raises:
        ConfigError: there is none of that name.

    >>> canonical("lr"), canonical("train_size")
    ('learning_rate', 'train_size')
    """
    full = ALIASES.get(name, name)
    if full not in setting_names():
        known = ", ".join(sorted({*setting_names(), *ALIASES}))
        raise ConfigError(f"there is no setting {name!r}", f"choose from {known}")
    return full


def make_settings(flat: Mapping[str, Any], *, gpu: bool | None = None) -> RunSettings:
    """Settings from flat names (full or short); what is left out has the profile's value.

    Args:
        flat: for instance ``{"profile": "tiny", "lr": 1e-4, "method": "lora", "lora_r": 8, "order_seed": 1}``.
            ``lora_...`` settings are without effect where ``method`` is ``full``, so that a grid can hold both.
        gpu: whether to default to the profile's mixed precision, which pays on a GPU; None: as this machine has one.

    Raises:
        ConfigError: a name that does not exist, a setting given twice, or a value out of range.

    >>> settings = make_settings({"profile": "smollm2", "batch": 16}, gpu=True)
    >>> settings.sft.batch_size, settings.sft.mixed_precision, settings.limit, settings.sft.epochs
    (16, 'bf16', 320, 3)
    >>> make_settings(settings.to_flat()) == settings
    True
    """
    values: dict[str, Any] = {}
    for name, value in flat.items():
        if canonical(name) in values:
            raise ConfigError(f"the setting {canonical(name)!r} is given twice", "give it once")
        values[canonical(name)] = tuple(value) if isinstance(value, list) else value
    profile = get_profile(values.get("profile"))
    if "mixed_precision" not in values:
        if gpu is None:
            from cs336_sft.model.loading import best_device

            gpu = best_device() == "cuda"
        values["mixed_precision"] = profile.mixed_precision if gpu else "no"
    defaults = {
        "profile": profile.name,
        "train_size": profile.train_size,
        "limit": profile.limit,
        "eval_size": profile.eval_size,
        # An adapter's best learning rate is about ten times that of all weights.
        "learning_rate": profile.learning_rate * (1 if values.get("method", "full") == "full" else 10),
        "batch_size": profile.batch_size,
        "epochs": profile.epochs,
    }
    values = defaults | values
    if "micro_batch_size" not in values and values.get("micro_batch_tokens") is None:
        values["micro_batch_size"] = min(profile.microbatch_size, values["batch_size"])
    training = {name: values.pop(name) for name in _SFT_FIELDS if name in values}
    training["seed"] = values.pop("order_seed", 0)
    method = values.pop("method", "full")
    adapter = {inner: values.pop(name) for name, inner in _ADAPTER_FIELDS.items() if name in values}
    if method not in get_args(Method):
        raise ConfigError(f"the setting method is {method!r}", f"choose one of {', '.join(get_args(Method))}")
    return RunSettings(
        **values,
        sft=SFTConfig(**training, progress=False),
        adapter=None if method == "full" else AdapterConfig(**adapter, quantize=method == "qlora"),
    )


# What every name says, in this order; anything else is added where it differs from the profile's value.
_IN_EVERY_NAME = {
    "method",
    "train_size",
    "batch_size",
    "learning_rate",
    "epochs",
    "max_steps",
    "append_eos",
    "subset_seed",
    "order_seed",
}
_LONGEST_NAME = 200  # file systems take 255 bytes
_SHORT = {"weights_dtype": "w", "micro_batch_size": "micro", "mixed_precision": "mp", "eval_size": "neval"}


def run_name(settings: RunSettings) -> str:
    """A directory name that says what the run is. The same settings have the same name in every sweep.

    >>> run_name(make_settings({"lr": 2e-5, "batch": 12, "max_steps": 64, "subset_seed": 1}))
    'full_n512_b12_lr2e-5_64steps_eos_subset1_order0'
    >>> run_name(make_settings({"limit": 320, "eos": False, "method": "lora", "lora_r": 4}))
    'lora_n512_b8_lr1e-3_ep3_noeos_s0_limit320_lora-r4'
    """
    flat = settings.to_flat()
    length = f"ep{flat['epochs']}" if flat["max_steps"] is None else f"{flat['max_steps']}steps"
    seeds = (flat["subset_seed"], flat["order_seed"])
    parts = [
        flat["method"],
        f"n{flat['train_size']}",
        f"b{flat['batch_size']}",
        f"lr{short_number(flat['learning_rate'])}",
        length,
        "eos" if flat["append_eos"] else "noeos",
        f"s{seeds[0]}" if seeds[0] == seeds[1] else f"subset{seeds[0]}_order{seeds[1]}",
    ]
    usual = make_settings({name: flat[name] for name in ("profile", "method", "batch_size")}, gpu=_uses_bf16(flat))
    default = usual.to_flat()
    for name, value in flat.items():
        if name not in _IN_EVERY_NAME and value != default.get(name):
            parts.append(f"{_SHORT.get(name, name.replace('_', '-'))}{_word(value)}")
    name = "_".join(parts)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 7]}_{_hash(name)}"


def short_number(value: float) -> str:
    """A number as people write it in a name.

    >>> [short_number(value) for value in (1e-4, 2.5e-5, 0.01, 3)]
    ['1e-4', '2.5e-5', '1e-2', '3']
    """
    if value == int(value):
        return str(int(value))
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _uses_bf16(flat: Mapping[str, Any]) -> bool:
    return flat["mixed_precision"] == "bf16"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "-on" if value else "-off"
    if isinstance(value, float):
        return short_number(value)
    if isinstance(value, list):
        return "-".join(map(_word, value))
    # Of a path the last part, and a short hash that tells two of the same name apart.
    tail = str(value).rstrip("/").rsplit("/", 1)[-1]
    text = "".join(c if c.isalnum() or c in ".-" else "-" for c in tail).strip("-.")
    text += f"-{_hash(str(value))}" if tail != str(value) else ""
    return f"-{text}" if text and text[0].isalpha() else text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
