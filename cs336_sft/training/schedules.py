"""Schedules of a run: learning rate, evaluations and checkpoints, as pure functions of the step number.

Steps are counted from 1, and 0 is the model before training. A resumed run needs only the last finished step's number.
"""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]
Cadence = int | tuple[int, ...] | Literal["log"] | None


def total_steps(n_examples: int, batch_size: int, epochs: int, max_steps: int | None = None) -> int:
    """Count the steps of a run (``max_steps``, if given, replaces ``epochs``).

    >>> total_steps(512, 8, epochs=3), total_steps(513, 8, epochs=3), total_steps(512, 8, epochs=3, max_steps=20)
    (192, 195, 20)
    """
    return epochs * math.ceil(n_examples / batch_size) if max_steps is None else max_steps


def warmup_steps(warmup: int | float, total: int) -> int:
    """Count the warm-up steps: an int, or a fraction of the run, rounded up.

    >>> warmup_steps(10, total=192), warmup_steps(0.05, total=192), warmup_steps(0.0, total=192)
    (10, 10, 0)
    """
    return warmup if isinstance(warmup, int) else math.ceil(warmup * total)


def lr_factor(step: int, total: int, schedule: Schedule = "constant", warmup: int = 0) -> float:
    """Compute the factor of the peak learning rate at ``step`` (1 to ``total``).

    It rises linearly to 1 at step ``warmup``. Then it stays at 1, or falls along a line or half a cosine to 0, which
    step ``total + 1`` would have, so that the last step still moves the weights.

    >>> [lr_factor(step, total=6, warmup=2) for step in range(1, 7)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    >>> [lr_factor(step, total=5, schedule="linear", warmup=1) for step in range(1, 6)]
    [1.0, 0.8, 0.6, 0.4, 0.2]
    >>> [round(lr_factor(step, total=4, schedule="cosine", warmup=1), 3) for step in range(1, 5)]
    [1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return step / warmup
    first = max(warmup, 1)  # the step that has the peak
    left = (total + 1 - step) / (total + 1 - first)  # 1 at the peak, 0 just after the last step
    if schedule == "linear":
        return left
    if schedule == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * left))
    return 1.0


def evaluation_steps(total: int, cadence: Cadence) -> tuple[int, ...]:
    """List the steps after which to evaluate: 0, the last, and those of ``cadence``.

    ``cadence`` is a number of steps; ``"log"``, which doubles the distance each time and shows an early peak with few
    evaluations; a tuple of steps; or None.

    >>> evaluation_steps(20, "log"), evaluation_steps(20, 8), evaluation_steps(20, (4, 12, 28))
    ((0, 1, 2, 4, 8, 16, 20), (0, 8, 16, 20), (0, 4, 12, 20))
    """
    if cadence == "log":
        cadence = tuple(2**k for k in range(total.bit_length()))
    elif isinstance(cadence, int):
        cadence = range(cadence, total, cadence)
    return tuple(sorted({0, total, *(step for step in cadence or () if step < total)}))


def checkpoint_steps(total: int, cadence: int | Literal["epoch"], steps_per_epoch: int) -> tuple[int, ...]:
    """List the steps after which to save, the last one included.

    >>> checkpoint_steps(20, 8, steps_per_epoch=6), checkpoint_steps(20, "epoch", steps_per_epoch=6)
    ((8, 16, 20), (6, 12, 18, 20))
    """
    every = steps_per_epoch if cadence == "epoch" else cadence
    return tuple(sorted({*range(every, total, every), total}))
