"""Which examples make up which optimizer step, and how a step is cut into microbatches.

All is a function of lengths, seed and epoch: a resumed run finds its place from the number of the step alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

# A megabatch is this many batches. Larger ones pad less and mix less.
MEGABATCH = 16


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int, megabatch: int = MEGABATCH
) -> list[tuple[int, ...]]:
    """Return the batches of one epoch, as indices into ``lengths``.

    Every example comes once. The examples are shuffled and cut into megabatches of ``megabatch * batch_size``; each is
    sorted by length and cut into batches, since padding costs as much as tokens do (of random batches of 8 from GSM8K
    a third is padding, of these a twentieth); and all batches are shuffled. ``megabatch=1`` gives plain random batches.
    The remainder of the epoch makes one smaller batch.

    >>> epoch_batches([5, 90, 6, 91, 7], batch_size=2, seed=0, epoch=0)
    [(2, 4), (1, 3), (0,)]
    """
    rng = random.Random(f"batches of epoch {epoch}, seed {seed}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), megabatch * batch_size):
        # `sorted` is stable: equal lengths keep their shuffled order.
        group = sorted(order[start : start + megabatch * batch_size], key=lambda index: lengths[index])
        # The incomplete batch (there is one in the last megabatch at most) is cut at a random place. Left at the end
        # of the sorted group it would always be made of the longest sequences.
        remainder = len(group) % batch_size
        cut = rng.randrange(len(group) // batch_size + 1) * batch_size
        if remainder:
            batches.append(tuple(group[cut : cut + remainder]))
            del group[cut : cut + remainder]
        batches += [tuple(group[i : i + batch_size]) for i in range(0, len(group), batch_size)]
    rng.shuffle(batches)
    return batches


def split_microbatches(indices: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[tuple[int, ...]]:
    """Cut examples into microbatches of at most ``max_tokens`` with their padding.

    The longest come first. An example that is longer on its own gets a microbatch of its own.

    >>> split_microbatches([0, 1, 2, 3], lengths=[10, 40, 30, 20], max_tokens=80)
    [(1, 2), (3, 0)]
    """
    rest = deal(indices, lengths, 0, 1)
    microbatches = []
    while rest:  # all of a microbatch are padded to the first
        size = max(1, max_tokens // max(1, lengths[rest[0]]))
        microbatches.append(rest[:size])
        rest = rest[size:]
    return microbatches


def deal(indices: Sequence[int], lengths: Sequence[int], rank: int, world_size: int) -> tuple[int, ...]:
    """Return the examples of process ``rank`` in an optimizer step.

    They are dealt out by length, so that every process has the same work; none if there are too few.
    """
    return tuple(sorted(indices, key=lambda index: (-lengths[index], index))[rank::world_size])
