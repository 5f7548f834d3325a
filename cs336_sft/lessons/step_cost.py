"""What one optimizer step costs: tokens per second, and memory on top of weights and AdamW's averages.

    cost = measure_cost(model, examples[:16], pad_id, micro_batch_size=4)

Weights, gradients and AdamW's averages are the same for every batch size; what grows with the microbatch are the
activations. ``memory`` estimates the whole of it beforehand; this measures real examples, padding included.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.batching import padding_share, split_microbatches
from cs336_sft.errors import ConfigError
from cs336_sft.model.memory_measurement import measured
from cs336_sft.records import Example
from cs336_sft.tokenization import collate, count_targets
from cs336_sft.training.step import response_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StepCost:
    """One optimizer step's forward and backward passes, measured.

    Attributes:
        batch_size, micro_batch_size: sequences a step, and at once.
        microbatches: how many it took.
        tokens: real tokens of the step.
        padding: share of the padded positions that are padding.
        loss: nats per target token, of the whole step.
        seconds: median over the repetitions.
        peak_bytes: the most that was alive at one time, above what was there before: activations and gradients.
    """

    batch_size: int
    micro_batch_size: int
    microbatches: int
    tokens: int
    padding: float
    loss: float
    seconds: float
    peak_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second; padding earns nothing."""
        return self.tokens / self.seconds


def measure_cost(
    model: PreTrainedModel,
    examples: Sequence[Example],
    pad_id: int,
    *,
    micro_batch_size: int | None = None,
    repeats: int = 3,
) -> StepCost:
    """Gradients of one optimizer step on ``examples``, without the update; the last ones are left in ``.grad``.

    Args:
        examples: those of the step.
        micro_batch_size: sequences that go through the model at once, at most; None: all.
        repeats: timed repetitions, after one that is not timed and counts the memory.

    Raises:
        ConfigError: no example, or a number below 1.

    >>> from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
    >>> model, _ = load_model_and_tokenizer(embedded_model_path())
    >>> cost = measure_cost(model, [Example((5, 6), (7, 8)), Example((5,), (6,))], pad_id=0, micro_batch_size=1)
    >>> cost.microbatches, cost.tokens, cost.padding
    (2, 6, 0.0)
    """
    micro = len(examples) if micro_batch_size is None else micro_batch_size
    if min(len(examples), micro, repeats) < 1:
        raise ConfigError(
            f"{len(examples)} examples, micro_batch_size {micro}, repeats {repeats}", "give at least 1 of each"
        )
    lengths = [len(example) for example in examples]
    parts = split_microbatches(range(len(examples)), lengths, max_sequences=micro)
    batches = [collate([examples[index] for index in part], pad_id) for part in parts]
    device = next(model.parameters()).device
    weight = 1.0 / count_targets(examples)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        losses = []
        for batch in batches:
            loss, _, _ = response_loss(model, batch, weight, device)
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
        batch_size=len(examples),
        micro_batch_size=micro,
        microbatches=len(parts),
        tokens=sum(lengths),
        padding=padding_share(parts, lengths),
        loss=loss,
        seconds=median(seconds),
        peak_bytes=peak,
    )
