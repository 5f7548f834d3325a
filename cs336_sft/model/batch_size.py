"""The largest micro-batch that fits: each trial is a complete step. On the CPU a budget stands for the memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cs336_sft.model.memory_estimate import StepSetup
from cs336_sft.model.memory_measurement import MemoryLimitError, measure_memory


@dataclass(frozen=True)
class Trial:
    """One size that was tried: its peak in bytes, None where it ran out of memory, and whether it fits."""

    batch: int
    peak: int | None
    fits: bool


@dataclass(frozen=True)
class BatchSearch:
    """What a search found: the largest size that fits (0: none does), the budget in bytes, and all trials in order."""

    batch: int
    budget: int
    trials: tuple[Trial, ...]


def find_batch_size(
    make_model: Callable[[], torch.nn.Module], setup: StepSetup, budget: int, *, largest: int = 256
) -> BatchSearch:
    """Find the largest micro-batch whose step stays within ``budget`` bytes in all.

    ``make_model`` gives a model to try with; ``setup`` says everything but the micro-batch. On a GPU leave room for
    fragmentation and the CUDA context: nine tenths of its memory.

    >>> from cs336_sft.model.memory_measurement import build_model
    >>> from cs336_sft.model.shape import ModelShape
    >>> setup, shape = StepSetup(1, 8, "fp32", "log_softmax"), ModelShape("tiny", 8, 16, 1, 1, 1, 8, 500, True)
    >>> find_batch_size(lambda: build_model(shape, setup), setup, budget=500_000).batch
    8
    """
    model = make_model()

    def try_batch(batch: int) -> Trial:
        try:
            peak = measure_memory(model, replace(setup, micro_batch_size=batch), limit=budget).peak
            return Trial(batch, peak, peak <= budget)
        except (torch.OutOfMemoryError, MemoryLimitError):
            pass  # leave the except block before cleaning up: the error holds the frames, and they the tensors
        model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Trial(batch, None, False)

    return search_batch(try_batch, budget, largest=largest)


def search_batch(try_batch: Callable[[int], Trial], budget: int, *, largest: int = 256) -> BatchSearch:
    """Double the size until one fails, then halve the gap.

    >>> search_batch(lambda batch: Trial(batch, 10 * batch, 10 * batch <= 55), 55).batch
    5
    """
    trials: list[Trial] = []
    good, bad, size = 0, largest + 1, 1
    while good + 1 < bad:
        trials.append(try_batch(size))
        if trials[-1].fits:
            good = size
        else:
            bad = size
        doubling = bad > largest and 2 * good <= largest
        size = 2 * good if doubling and good else (good + bad) // 2
    return BatchSearch(good, budget, tuple(trials))
