"""The settings of a fine-tuning run, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from cs336_sft.errors import ConfigError
from cs336_sft.training.schedules import Cadence, Schedule

MixedPrecision = Literal["no", "bf16"]
Normalization = Literal["tokens", "handout"]
WeightsDtype = Literal["float32", "bfloat16"]
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class SFTConfig:
    """How to fine-tune. Together with the examples and the starting weights it fixes every number of a run.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        epochs: passes over the examples.
        max_steps: optimizer steps; where given it replaces ``epochs``.
        batch_size: sequences an optimizer step, over all processes.
        micro_batch_size: sequences that go through the model at once, at most; None: the whole batch.
        micro_batch_tokens: tokens with padding that go through the model at once, at most; suits lengths that differ.
        warmup: steps of warm-up (int), or their share of the run (float below 1).
        schedule: what the learning rate does after the warm-up: ``"constant"``, ``"cosine"`` or ``"linear"`` (to 0).
        weight_decay: AdamW's, on matrices only (not on biases and norms).
        betas: AdamW's.
        max_grad_norm: gradients are scaled down to this norm; None: never.
        seed: of the order of the examples, and of dropout where the model has any.
        mixed_precision: ``"bf16"`` computes in bfloat16 under autocast; weights and AdamW's states stay float32.
        weights_dtype: of the weights that are trained, and so of their gradients and of AdamW's two averages:
            ``"float32"``, the master weights, or ``"bfloat16"``, which halves the memory and loses small updates.
        normalization: ``"tokens"`` weighs every target token of a step alike; ``"handout"`` is CS336's
            ``sft_microbatch_train_step``. See ``losses``.
        normalize_constant: the divisor of the handout's normalisation.
        eval_every: evaluate every so many steps, at ``"log"``-spaced ones (1, 2, 4, 8, ...), or at those of a tuple;
            before the first and after the last step in any case. None: only then.
        checkpoint_every: write a checkpoint every so many steps, or every ``"epoch"``; after the last in any case.
        keep_checkpoints: how many of the newest checkpoints to keep; None: all.
        entropy_every: log the mean entropy over the response tokens every so many steps; None: never.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        compile: compile the model's layers with ``torch.compile``; pays on a GPU, after about a minute. Another run of
            the same configuration may then differ in the last bits, as compiled kernels are chosen by timing.
        trackers: also log to ``"tensorboard"`` or ``"wandb"``.
        progress: show a progress bar.

    Raises:
        ConfigError: a field out of range; the message names the field, the value and the remedy.

    >>> SFTConfig(epochs=1, warmup=0.1).learning_rate
    0.0001
    >>> SFTConfig(batch_size=0)
    Traceback (most recent call last):
    ...
    cs336_sft.errors.ConfigError: SFTConfig.batch_size is 0. Remedy: give a whole number of at least 1.
    """

    learning_rate: float = 1e-4
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 8
    micro_batch_size: int | None = None
    micro_batch_tokens: int | None = None
    warmup: int | float = 0
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float | None = 1.0
    seed: int = 0
    mixed_precision: MixedPrecision = "no"
    weights_dtype: WeightsDtype = "float32"
    normalization: Normalization = "tokens"
    normalize_constant: float = 1.0
    eval_every: Cadence = "log"
    checkpoint_every: int | Literal["epoch"] = "epoch"
    keep_checkpoints: int | None = 2
    entropy_every: int | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    trackers: tuple[str, ...] = ()
    progress: bool = True

    def __post_init__(self) -> None:
        def demand(ok: bool, field: str, remedy: str) -> None:
            if not ok:
                raise ConfigError(f"SFTConfig.{field} is {getattr(self, field)!r}", remedy)

        positive = "give a positive number"
        demand(_is_number(self.learning_rate) and self.learning_rate > 0, "learning_rate", positive)
        for field in ("epochs", "batch_size"):
            demand(_is_count(getattr(self, field)), field, "give a whole number of at least 1")
        optional = ("max_steps", "micro_batch_size", "micro_batch_tokens", "keep_checkpoints", "entropy_every")
        for field in optional:
            value = getattr(self, field)
            demand(value is None or _is_count(value), field, "give a whole number of at least 1, or None")
        demand(
            self.micro_batch_size is None or self.micro_batch_tokens is None,
            "micro_batch_tokens",
            f"leave it None, or micro_batch_size (now {self.micro_batch_size}): a microbatch has one limit",
        )
        demand(
            _is_count(self.warmup, least=0) or (isinstance(self.warmup, float) and 0.0 <= self.warmup < 1.0),
            "warmup",
            "give a number of steps (int) or a share of the run (float from 0 to below 1)",
        )
        demand(_is_number(self.weight_decay) and self.weight_decay >= 0, "weight_decay", "give 0 or a positive number")
        demand(
            isinstance(self.betas, tuple)
            and len(self.betas) == 2
            and all(_is_number(beta) and 0 <= beta < 1 for beta in self.betas),
            "betas",
            "give a tuple of two numbers from 0 to below 1",
        )
        demand(
            self.max_grad_norm is None or (_is_number(self.max_grad_norm) and self.max_grad_norm > 0),
            "max_grad_norm",
            "give a positive number, or None to leave gradients as they are",
        )
        demand(_is_count(self.seed, least=0), "seed", "give a whole number of at least 0")
        demand(_is_number(self.normalize_constant) and self.normalize_constant > 0, "normalize_constant", positive)
        for field, allowed in (
            ("schedule", get_args(Schedule)),
            ("mixed_precision", get_args(MixedPrecision)),
            ("weights_dtype", get_args(WeightsDtype)),
            ("normalization", get_args(Normalization)),
        ):
            demand(getattr(self, field) in allowed, field, f"choose one of {', '.join(allowed)}")
        demand(
            self.eval_every in (None, "log") or _is_count(self.eval_every) or _are_counts(self.eval_every),
            "eval_every",
            "give a number of steps, a tuple of steps, 'log', or None",
        )
        demand(
            self.checkpoint_every == "epoch" or _is_count(self.checkpoint_every),
            "checkpoint_every",
            "give a number of steps, or 'epoch'",
        )
        for field in ("gradient_checkpointing", "compile", "progress"):
            demand(isinstance(getattr(self, field), bool), field, "give True or False")
        demand(
            isinstance(self.trackers, tuple) and all(name in TRACKERS for name in self.trackers),
            "trackers",
            f"give a tuple of {' and '.join(map(repr, TRACKERS))}, or ()",
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them (tuples as lists).

        >>> SFTConfig().to_dict()["betas"]
        [0.9, 0.95]
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SFTConfig:
        """The inverse of ``to_dict``. Fields that are left out have their defaults.

        Raises:
            ConfigError: a field that does not exist, or a value out of range.

        >>> SFTConfig.from_dict({"learning_rat": 1e-5})
        Traceback (most recent call last):
        ...
        cs336_sft.errors.ConfigError: SFTConfig has no field 'learning_rat'. Remedy: ...
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"SFTConfig has no field {name!r}", f"choose from {', '.join(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_counts(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(map(_is_count, value))


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
