"""The settings of a fine-tuning run, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from cs336_sft.training.schedules import Cadence, Schedule
from cs336_sft.utils.validation import (
    check_choice,
    check_counts,
    check_field,
    check_flags,
    fields_from_dict,
    fields_to_dict,
    is_count,
    is_number,
)

MixedPrecision = Literal["no", "bf16"]
Normalization = Literal["tokens", "handout"]
WeightsDtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class SFTConfig:
    """Settings of SFT. With the examples and the starting weights they determine every number of a run.

    Attributes:
        learning_rate: peak learning rate of AdamW.
        epochs: passes over the examples.
        max_steps: optimizer steps; replaces ``epochs`` if given.
        batch_size: sequences in an optimizer step, over all processes.
        micro_batch_size: sequences that go through the model at once, at most; None: the whole batch.
        warmup: steps of warm-up (int), or their fraction of the run (float below 1).
        schedule: learning rate after the warm-up: ``"constant"``, ``"cosine"`` or ``"linear"`` (to 0).
        weight_decay: AdamW's, applied to matrices only (not to biases and norms).
        betas: AdamW's.
        max_grad_norm: larger gradients are scaled down to this norm; None: no clipping.
        seed: seeds data order and dropout.
        mixed_precision: ``"bf16"`` computes in bfloat16 under autocast; weights and AdamW's states stay float32.
        weights_dtype: of trained weights, gradients and AdamW's averages; ``"bfloat16"`` loses small updates.
        normalization: ``"tokens"``: mean over the step's target tokens; ``"handout"``: CS336's (see ``losses``).
        normalize_constant: divisor of the handout's normalization.
        eval_every: evaluate every so many steps, at ``"log"``-spaced ones (1, 2, 4, ...), or at the steps of a tuple;
            before the first and after the last step in any case. None: only then.
        checkpoint_every: save a checkpoint every so many steps, or every ``"epoch"``; after the last in any case.
        keep_checkpoints: how many of the newest checkpoints to keep; None: all.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        progress: show a progress bar.

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
    gradient_checkpointing: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        check_counts(self, "epochs", "batch_size")
        check_counts(self, "max_steps", "micro_batch_size", "keep_checkpoints", optional=True)
        check_counts(self, "seed", least=0)
        check_flags(self, "gradient_checkpointing", "progress")
        check_choice(self, "schedule", get_args(Schedule))
        check_choice(self, "mixed_precision", get_args(MixedPrecision))
        check_choice(self, "weights_dtype", get_args(WeightsDtype))
        check_choice(self, "normalization", get_args(Normalization))
        for field in ("learning_rate", "normalize_constant"):
            value = getattr(self, field)
            check_field(is_number(value) and value > 0, self, field, "give a positive number")
        ok = is_number(self.weight_decay) and self.weight_decay >= 0
        check_field(ok, self, "weight_decay", "give a number of at least 0")
        ok = self.max_grad_norm is None or (is_number(self.max_grad_norm) and self.max_grad_norm > 0)
        check_field(ok, self, "max_grad_norm", "give a positive number, or None to leave gradients as they are")
        ok = is_count(self.warmup, least=0) or (isinstance(self.warmup, float) and 0.0 <= self.warmup < 1.0)
        check_field(ok, self, "warmup", "give a number of steps (int) or a fraction of the run (float below 1)")
        betas = self.betas if isinstance(self.betas, tuple) else ()
        ok = len(betas) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in betas)
        check_field(ok, self, "betas", "give a tuple of two numbers from 0 to below 1")
        steps = self.eval_every if isinstance(self.eval_every, tuple) else (self.eval_every,)
        ok = self.eval_every in (None, "log") or (len(steps) > 0 and all(map(is_count, steps)))
        check_field(ok, self, "eval_every", "give a number of steps, a tuple of steps, 'log', or None")
        ok = self.checkpoint_every == "epoch" or is_count(self.checkpoint_every)
        check_field(ok, self, "checkpoint_every", "give a number of steps, or 'epoch'")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, with lists for tuples."""
        return fields_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from JSON values, the inverse of ``to_dict``."""
        return fields_from_dict(cls, values)
