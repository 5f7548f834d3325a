"""The configurations of one run, of fine-tuning or expert iteration: flat names for Python, JSON and command line.

A field ``gen_batch_size`` is the option ``--gen-batch-size`` and the JSON key ``gen_batch_size``. A profile is a
dictionary of defaults that ``make_config`` applies once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.profiles import get_profile, with_model
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.model.lora import LINEAR_LAYERS, AdapterConfig
from cs336_sft.training.config import SFTConfig
from cs336_sft.utils.validation import (
    check_choice,
    check_counts,
    check_field,
    check_flags,
    fields_from_dict,
    is_count,
    is_number,
    narrow,
)

Config = TypeVar("Config", bound="RunFields")
Method = Literal["full", "lora", "qlora"]
# Fields that do not affect results: neither in a run's name nor in its record.
WITHOUT_EFFECT = ("checkpoint_every", "keep_checkpoints", "progress")
# Defaults that depend on the profile; every other field has its own default.
PROFILE_FIELDS = ("template", "train_size", "eval_size", "max_new_tokens", "batch_size", "epochs")


@dataclass(frozen=True)
class RunFields:
    """Data, model and evaluation of a run: the fields that fine-tuning and expert iteration share."""

    profile: str = "tiny"
    model: str | None = None  # model folder or hub name; None: the profile's model
    template: str = "gsm8k"
    data: str | None = None  # training problems (see Profile.problems); None: the profile's
    eval_data: str | None = None  # evaluation problems, likewise
    eval_size: int = 256  # validation problems; always the same ones, whatever the seeds
    max_new_tokens: int = 160
    # Measure the test split at the end with the last weights, or those best on validation (the earliest of equal ones).
    test_checkpoint: Literal["last", "best"] | None = None
    sampler: Literal["hf", "vllm"] = "hf"
    gen_batch_size: int | None = None  # sequences that the hf sampler generates at once; None: its default

    def __post_init__(self) -> None:
        get_profile(self.profile)
        for name in ("model", "data", "eval_data"):
            text = isinstance(getattr(self, name), str | None)
            check_field(text, self, name, "give a path or a hub name as text")
        check_field(isinstance(self.template, str), self, "template", "give the name of a template")
        check_counts(self, "eval_size", "max_new_tokens")
        check_counts(self, "gen_batch_size", optional=True)
        check_choice(self, "test_checkpoint", ("last", "best", None))
        check_choice(self, "sampler", ("hf", "vllm"))

    def model_source(self) -> str | Path:
        """Return the folder or hub name of the run's model."""
        return with_model(get_profile(self.profile), self.model).model_source()


@dataclass(frozen=True)
class RunConfig(RunFields, SFTConfig):
    """Everything that one fine-tuning run is made of.

    >>> RunConfig(method="lora", lora_r=8).adapter.scaling
    4.0
    """

    # "full": all of GSM8K's train part that is not held out, or Profile.full_size generated problems.
    train_size: int | Literal["full"] = 512
    subset_seed: int = 0  # chooses the training problems; smaller sets are parts of larger ones
    append_eos: bool = True  # train on the end-of-text token after each response
    method: Method = "full"  # train all weights, an adapter, or one over 4-bit weights
    lora_r: int = 16  # this and the next three: see AdapterConfig
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    lora_targets: tuple[str, ...] = LINEAR_LAYERS
    progress: bool = False

    def __post_init__(self) -> None:
        SFTConfig.__post_init__(self)
        RunFields.__post_init__(self)
        whole = self.train_size == "full" or is_count(self.train_size)
        check_field(whole, self, "train_size", "give a whole number of at least 1, or 'full'")
        check_counts(self, "subset_seed", least=0)
        check_flags(self, "append_eos")
        check_choice(self, "method", ("full", "lora", "qlora"))
        try:
            _ = self.adapter
        except ConfigError as error:
            problem = error.problem.replace("AdapterConfig.", "RunConfig.lora_")
            raise ConfigError(problem, error.remedy) from error

    @property
    def adapter(self) -> AdapterConfig | None:
        """Return the adapter's configuration, or None for full fine-tuning."""
        if self.method == "full":
            return None
        quantize = self.method == "qlora"
        return AdapterConfig(self.lora_r, self.lora_alpha, self.lora_dropout, self.lora_targets, quantize)

    def training(self) -> SFTConfig:
        """Return the fields of the training loop alone, for ``train_sft``."""
        return narrow(self, SFTConfig)

    def settings(self) -> dict[str, Any]:
        """Return the fields that affect results, as JSON has them."""
        hidden = WITHOUT_EFFECT if self.method != "full" else (*WITHOUT_EFFECT, *_LORA_FIELDS)
        return {name: value for name, value in self.to_dict().items() if name not in hidden}


@dataclass(frozen=True)
class ExpertIterationRunConfig(RunFields, ExpertIterationConfig):
    """Everything that one run of expert iteration is made of."""

    pool_size: int | None = None  # questions that rounds draw from; None: questions_per_round
    skip_train: int = 0  # training problems to leave out, because the model was trained on them
    sft_size: int = 0  # further training problems for a first SFT; they are not in the pool
    sft_epochs: int = 3
    sft_learning_rate: float | None = None  # of the first SFT; None: the profile's
    subset_seed: int = 0  # chooses the training problems
    test_size: int | None = None  # test problems; None: eval_size

    def __post_init__(self) -> None:
        ExpertIterationConfig.__post_init__(self)
        RunFields.__post_init__(self)
        check_counts(self, "skip_train", "sft_size", "subset_seed", least=0)
        check_counts(self, "sft_epochs")
        check_counts(self, "pool_size", "test_size", optional=True)
        check_choice(self, "test_checkpoint", ("last", None))
        rate = self.sft_learning_rate
        valid = rate is None or (is_number(rate) and rate > 0)
        check_field(valid, self, "sft_learning_rate", "give a positive number, or None")

    def start_config(self) -> SFTConfig:
        """Build the settings of the first SFT."""
        rate = self.sft_learning_rate or get_profile(self.profile).learning_rate
        return narrow(self, SFTConfig, learning_rate=rate, epochs=self.sft_epochs)


_LORA_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "lora_targets")
SETTINGS = tuple(item.name for item in fields(RunConfig) if item.name not in WITHOUT_EFFECT)


def make_config(
    *, profile: str | None = None, gpu: bool | None = None, config_class: type[Config] = RunConfig, **overrides: Any
) -> Config:
    """Make a run's configuration: the profile's defaults, then the overrides.

    Args:
        profile: see ``get_profile``.
        gpu: use the profile's mixed precision, which pays on a GPU; None: if this machine has one.
        overrides: fields of ``config_class``. Without ``subset_seed``, ``seed`` chooses the training problems too.

    Raises ConfigError: a name is not a field, or a value is out of range.

    >>> make_config(profile="smollm2", batch_size=16, gpu=True).max_new_tokens
    320
    """
    source = get_profile(profile)
    if gpu is None:
        from cs336_sft.model.loading import best_device

        gpu = best_device() == "cuda"
    defaults = {name: getattr(source, name) for name in PROFILE_FIELDS} | {
        "profile": source.name,
        # An adapter's best learning rate is about ten times that of all weights.
        "learning_rate": source.learning_rate * (1 if overrides.get("method", "full") == "full" else 10),
        "mixed_precision": source.mixed_precision if gpu else "no",
        "subset_seed": overrides.get("seed", 0),
    }
    if is_count(batch_size := overrides.get("batch_size", source.batch_size)):
        defaults["micro_batch_size"] = min(source.micro_batch_size, batch_size)
    known = {field.name for field in fields(config_class)}
    defaults = {name: value for name, value in defaults.items() if name in known}
    return fields_from_dict(config_class, defaults | overrides)


def make_ei_config(**overrides: Any) -> ExpertIterationRunConfig:
    """Make a configuration of expert iteration (see ``make_config``).

    ``epochs`` are those of a round, so their default does not depend on the profile.

    >>> make_ei_config(profile="smollm2", sft_size=128).max_new_tokens
    320
    """
    return make_config(config_class=ExpertIterationRunConfig, **{"epochs": 1} | overrides)


# Every name says these, in a fixed order; any other field is added if it differs from its default.
_IN_EVERY_NAME = (
    *("method", "train_size", "batch_size", "learning_rate", "epochs", "max_steps", "append_eos"),
    *("subset_seed", "seed"),
)
_LONGEST_NAME = 200  # file systems take 255 bytes


def run_name(config: RunConfig) -> str:
    """Write a directory name that describes the run, equal for equal settings.

    >>> run_name(make_config(learning_rate=2e-5, batch_size=12, max_steps=64, subset_seed=1, gpu=False))
    'full_n512_b12_lr2e-5_64steps_eos_subset1_seed0'
    >>> run_name(make_config(max_new_tokens=320, append_eos=False, method="lora", lora_r=4, gpu=False))
    'lora_n512_b8_lr1e-3_ep3_noeos_s0_max-new-tokens320_lora-r4'
    """
    subset, seed = config.subset_seed, config.seed
    parts = [
        *(config.method, f"n{config.train_size}", f"b{config.batch_size}", f"lr{short_number(config.learning_rate)}"),
        f"ep{config.epochs}" if config.max_steps is None else f"{config.max_steps}steps",
        "eos" if config.append_eos else "noeos",
        f"s{seed}" if subset == seed else f"subset{subset}_seed{seed}",
    ]
    usual = {name: getattr(config, name) for name in ("profile", "method", "batch_size")}
    default = make_config(**usual, gpu=config.mixed_precision == "bf16").settings() | {"profile": "tiny"}
    for name, value in config.settings().items():
        if name not in _IN_EVERY_NAME and value != default[name]:
            parts.append(f"{name.replace('_', '-')}{_word(value)}")
    name = "_".join(parts)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 7]}_{_hash(name)}"


def short_number(value: float) -> str:
    """Write a number as people write it in a name.

    >>> short_number(2.5e-5), short_number(3.0)
    ('2.5e-5', '3')
    """
    if value == int(value):
        return str(int(value))
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "-on" if value else "-off"
    if isinstance(value, float):
        return short_number(value)
    if isinstance(value, list):
        return "-".join(map(_word, value))
    # Of a path the last part, and a short hash that separates two of the same name.
    tail = str(value).rstrip("/").rsplit("/", 1)[-1]
    text = "".join(c if c.isalnum() or c in ".-" else "-" for c in tail).strip("-.")
    text += f"-{_hash(str(value))}" if tail != str(value) else ""
    return f"-{text}" if text and text[0].isalpha() else text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
