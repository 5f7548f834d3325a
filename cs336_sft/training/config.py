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

    >>> SFTConfig(batch_size=0)
    Traceback (most recent call last):
    ...
    cs336_sft.errors.ConfigError: SFTConfig.batch_size is 0. Remedy: give a whole number of at least 1.
    """

    learning_rate: float = 1e-4  # the peak
    epochs: int = 3
    max_steps: int | None = None  # optimizer steps, in place of epochs
    batch_size: int = 8  # sequences in an optimizer step, over all processes
    micro_batch_size: int | None = None  # sequences that go through the model at once, at most; None: the whole batch
    warmup: int | float = 0  # steps (int), or a fraction of the run (float below 1)
    schedule: Schedule = "constant"  # of the learning rate after the warm-up; the others fall to 0
    weight_decay: float = 0.0  # of AdamW, for matrices only
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    max_grad_norm: float | None = 1.0  # larger gradients are scaled down to this norm
    seed: int = 0  # of data order and dropout
    mixed_precision: MixedPrecision = "no"  # "bf16": bfloat16 under autocast; weights and AdamW's states stay float32
    weights_dtype: WeightsDtype = "float32"  # of weights, gradients and AdamW's states; "bfloat16" loses small updates
    normalization: Normalization = "tokens"  # mean over the step's target tokens, or CS336's (see `losses`)
    normalize_constant: float = 1.0  # divisor of the handout's normalization
    eval_every: Cadence = (
        "log"  # in steps, at those of a tuple, or 1, 2, 4, ...; always before the first, after the last
    )
    checkpoint_every: int | Literal["epoch"] = "epoch"  # in steps, or after long epochs; always after the last
    keep_checkpoints: int | None = 2  # the newest; None: all
    gradient_checkpointing: bool = False  # recompute activations in the backward: less memory, a third more time
    progress: bool = True  # show a progress bar

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
