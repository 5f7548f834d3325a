"""Tokens per second and memory of an optimizer step, on real examples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.batching import padding_share, split_microbatches
from cs336_sft.errors import ConfigError
from cs336_sft.losses import sft_loss
from cs336_sft.model.memory_measurement import measured
from cs336_sft.records import Example
from cs336_sft.tokenization import collate, count_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StepCost:
    """Measurements of one optimizer step's forward and backward passes."""

    microbatches: int
    tokens: int  # real tokens of the step
    padding: float  # fraction of the padded positions that are padding
    loss: float  # nats per target token, of the whole step
    seconds: float  # median over the repetitions
    peak_bytes: int  # above what was there before: activations and gradients

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def measure_cost(
    model: PreTrainedModel,
    examples: Sequence[Example],
    pad_id: int,
    *,
    micro_batch_size: int | None = None,
    repeats: int = 3,
) -> StepCost:
    """Measure one optimizer step without its update.

    At most `micro_batch_size` sequences (None: all) go through the model at once. The first run counts the memory,
    `repeats` more are timed, and the last gradients are left in `.grad`.
    """
    micro = len(examples) if micro_batch_size is None else micro_batch_size
    if min(len(examples), micro, repeats) < 1:
        raise ConfigError(f"{len(examples)} examples, {micro} at once, {repeats} times", "give at least 1 of each")
    lengths = [len(example) for example in examples]
    parts = split_microbatches(range(len(examples)), lengths, max_sequences=micro)
    batches = [collate([examples[index] for index in part], pad_id) for part in parts]
    device = next(model.parameters()).device
    targets = count_targets(examples)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        losses = []
        for batch in batches:
            loss, _ = sft_loss(model, batch, targets)
            loss.backward()
            losses.append(loss.detach())
        return float(torch.stack(losses).sum())  # waits for the GPU

    model.zero_grad(set_to_none=True)
    with measured(device) as meter:
        before = meter.live
        meter.reset_peak()
        loss = step()
        peak = meter.peak - before
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return StepCost(
        microbatches=len(parts),
        tokens=sum(lengths),
        padding=padding_share(parts, lengths),
        loss=loss,
        seconds=median(seconds),
        peak_bytes=peak,
    )
