from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cs336_sft.data.batching import deal, epoch_batches, split_microbatches

LENGTHS = [20 + (37 * i) % 211 for i in range(513)]
lengths_strategy = st.lists(st.integers(1, 300), min_size=1, max_size=120)


@given(lengths_strategy, st.integers(1, 17), st.integers(0, 9), st.integers(0, 3), st.integers(1, 5))
def test_every_example_exactly_once_an_epoch_and_all_batches_full_but_one(lengths, size, seed, epoch, megabatch):
    batches = epoch_batches(lengths, size, seed=seed, epoch=epoch, megabatch=megabatch)
    assert Counter(i for batch in batches for i in batch) == Counter(range(len(lengths)))
    short = [len(batch) for batch in batches if len(batch) != size]
    assert short == ([len(lengths) % size] if len(lengths) % size else [])


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    first = epoch_batches(LENGTHS, 8, seed=0, epoch=0)
    assert first == epoch_batches(LENGTHS, 8, seed=0, epoch=0)
    assert first != epoch_batches(LENGTHS, 8, seed=0, epoch=1)
    assert first != epoch_batches(LENGTHS, 8, seed=1, epoch=0)


def padding_share(batches, lengths) -> float:
    positions = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / positions


def test_grouping_saves_padding_and_leaves_batches_different_between_epochs():
    grouped = epoch_batches(LENGTHS, 8, seed=0, epoch=0)
    plain = epoch_batches(LENGTHS, 8, seed=0, epoch=0, megabatch=1)
    assert padding_share(grouped, LENGTHS) < 0.05 < 0.3 < padding_share(plain, LENGTHS)
    again = {frozenset(batch) for batch in epoch_batches(LENGTHS, 8, seed=0, epoch=1)}
    assert not again & {frozenset(batch) for batch in grouped}


def test_length_says_nothing_about_the_time_in_an_epoch():
    """Without the last shuffle lengths would rise within each megabatch."""
    longest = [max(LENGTHS[i] for i in batch) for batch in epoch_batches(LENGTHS, 8, seed=0, epoch=0)]
    rises = sum(a < b for a, b in pairwise(longest))
    assert 0.35 < rises / (len(longest) - 1) < 0.65


def test_the_incomplete_batch_is_not_always_the_longest():
    """Nor any other fixed part of the lengths."""
    lengths = list(range(33))  # eight batches of 4 and one example, whose place is one of nine
    rests = set()
    for epoch in range(200):
        [rest] = [b for b in epoch_batches(lengths, 4, seed=0, epoch=epoch) if len(b) == 1]
        rests.add(rest[0])
    assert rests == {0, 4, 8, 12, 16, 20, 24, 28, 32}
    rests = {b for e in range(200) for b in epoch_batches(lengths[:11], 4, seed=0, epoch=e) if len(b) == 3}
    assert rests == {(0, 1, 2), (4, 5, 6), (8, 9, 10)}


def test_a_megabatch_is_sixteen_batches():
    """Recorded runs have this order."""
    assert epoch_batches(LENGTHS, 8, seed=0, epoch=0) == epoch_batches(LENGTHS, 8, seed=0, epoch=0, megabatch=16)


def test_a_batch_is_made_of_neighbours_in_length():
    """Of 12 examples in one megabatch the batches are the thirds; in two megabatches, parts of each half."""
    lengths = [7, 3, 11, 1, 9, 5, 12, 2, 10, 4, 8, 6]
    for epoch in range(5):
        batches = epoch_batches(lengths, 4, seed=0, epoch=epoch, megabatch=3)
        found = sorted([lengths[i] for i in batch] for batch in batches)
        assert found == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_microbatches_are_as_large_as_their_limits_allow():
    lengths = [10, 40, 30, 20, 20]
    assert split_microbatches(range(5), lengths, max_tokens=80) == [(1, 2), (3, 4, 0)]
    assert split_microbatches(range(5), lengths, max_tokens=79) == [(1,), (2, 3), (4, 0)]
    assert split_microbatches(range(5), lengths, max_tokens=5) == [(1,), (2,), (3,), (4,), (0,)]
    assert split_microbatches([], [], 5) == []


def test_dealing_goes_from_the_longest_to_the_shortest():
    assert [deal([4, 2, 0, 1], [10, 30, 10, 99, 20], rank, 2) for rank in (0, 1)] == [(1, 0), (4, 2)]
    assert deal([0], [5], rank=1, world_size=2) == ()


@given(lengths_strategy, st.integers(1, 900))
def test_microbatches_partition_the_step_within_their_limit(lengths, max_tokens):
    indices = list(range(len(lengths)))[::-1]
    parts = split_microbatches(indices, lengths, max_tokens)
    assert Counter(i for part in parts for i in part) == Counter(indices)
    flat = [lengths[i] for part in parts for i in part]
    assert flat == sorted(flat, reverse=True)
    for part in parts:
        padded = len(part) * max(lengths[i] for i in part)
        assert padded <= max_tokens or len(part) == 1


@given(lengths_strategy, st.integers(1, 9))
def test_dealing_partitions_the_step_and_is_fair(lengths, world_size):
    indices = list(range(len(lengths)))
    shares = [deal(indices, lengths, rank, world_size) for rank in range(world_size)]
    assert Counter(i for share in shares for i in share) == Counter(indices)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
