"""The largest micro-batch that fits: tried out, not guessed.

Each trial is a complete step (``memory_measurement.measure_memory``). On a GPU a trial that does not fit raises
an out-of-memory error, which is caught and cleaned up after; on the CPU the tracker's count is held against a budget,
so that nobody's laptop has to swap. Memory grows with the batch, so sizes are doubled until one fails, and the rest is
a search by halves between the largest that fitted and the smallest that did not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from cs336_sft.errors import ConfigError
from cs336_sft.model.memory_estimate import StepSetup, format_bytes
from cs336_sft.model.memory_measurement import measure_memory
from cs336_sft.model.memory_tracker import MemoryLimitError


@dataclass(frozen=True)
class Trial:
    """One size that was tried: its peak in bytes, None where it ran out of memory, and whether it fits."""

    batch: int
    peak: int | None
    fits: bool


@dataclass(frozen=True)
class BatchSearch:
    """What a search found.

    Attributes:
        batch: the largest size that fits, 0 if not even one sequence does.
        budget: bytes that a step might take.
        trials: all sizes tried, in the order of trying.
    """

    batch: int
    budget: int
    trials: tuple[Trial, ...]


def find_batch_size(
    make_model: Callable[[], torch.nn.Module], setup: StepSetup, budget: int, *, largest: int = 256
) -> BatchSearch:
    """The largest micro-batch whose training step stays within ``budget`` bytes, weights and states included.

    Args:
        make_model: gives a model to try with; called once. Its weights are changed.
        setup: everything but the batch, which is searched for. ``length`` should be that of the longest sequences.
        budget: in bytes. On a GPU leave room for fragmentation and the CUDA context: nine tenths of its memory.
        largest: sizes above this are not tried.

    Raises:
        ConfigError: a budget or ``largest`` below 1.

    >>> from cs336_sft.model.memory_measurement import build_model
    >>> from cs336_sft.model.shape import ModelShape
    >>> setup = StepSetup(1, 8, "fp32", "log_softmax")
    >>> shape = ModelShape("tiny", 8, 16, 1, 1, 1, 8, 500, True)
    >>> search = find_batch_size(lambda: build_model(shape, setup), setup, budget=500_000)
    >>> search.batch, [trial.batch for trial in search.trials]
    (8, [1, 2, 4, 8, 16, 12, 10, 9])
    """
    if budget < 1 or largest < 1:
        raise ConfigError(f"a budget of {budget} bytes, at most {largest} sequences", "give numbers of at least 1")
    model = make_model()
    return search_batch(lambda batch: _try(model, replace(setup, batch=batch), budget), budget, largest=largest)


def search_batch(try_batch: Callable[[int], Trial], budget: int, *, largest: int = 256) -> BatchSearch:
    """Double until a size fails, then halve the gap; ``try_batch`` may measure or estimate.

    >>> search_batch(lambda batch: Trial(batch, 10 * batch, 10 * batch <= 55), 55).batch
    5
    """
    trials: list[Trial] = []

    def fits(batch: int) -> bool:
        trials.append(try_batch(batch))
        return trials[-1].fits

    good, bad = 0, largest + 1
    size = 1
    while size < bad:
        if fits(size):
            good, size = size, 2 * size
        else:
            bad = size
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return BatchSearch(good, budget, tuple(trials))


def report(search: BatchSearch) -> str:
    """The result in one sentence.

    >>> report(BatchSearch(4, 8_000_000_000, (Trial(4, 6_500_000_000, True),)))
    'micro-batch 4 fits into 8.00 GB (6.50 GB at its peak)'
    """
    if search.batch == 0:
        return f"not even one sequence fits into {format_bytes(search.budget)}"
    peak = next(trial.peak for trial in search.trials if trial.batch == search.batch)
    return f"micro-batch {search.batch} fits into {format_bytes(search.budget)} ({format_bytes(peak or 0)} at its peak)"


def _try(model: torch.nn.Module, setup: StepSetup, budget: int) -> Trial:
    peak = None
    try:
        peak = measure_memory(model, setup, limit=budget).peak
    except (torch.OutOfMemoryError, MemoryLimitError):
        pass  # leave the except block before cleaning up: the error holds the frames, and they the tensors
    if peak is None:
        model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return Trial(setup.batch, peak, peak is not None and peak <= budget)
