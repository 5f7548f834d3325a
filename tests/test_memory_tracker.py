"""The tracker counts what PyTorch's profiler sees of the CPU allocator; methods of the head agree with each other."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cs336_sft.model import logprob_variants
from cs336_sft.model.batch_size import Trial, find_batch_size, search_batch
from cs336_sft.model.memory_estimate import StepSetup, estimate_memory
from cs336_sft.model.memory_measurement import (
    MemoryLimitError,
    MemoryTracker,
    build_model,
    loss_and_entropy,
    measured,
)
from cs336_sft.model.shape import ModelShape

SHAPE = ModelShape("small", 64, 192, 2, 4, 2, 16, 2000, True, qkv_bias=True)
MIB = 2**20


def profiler_peak(function) -> int:
    """Peak of the CPU allocator by its own events, scratch memory of kernels included."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = []

    def walk(nodes) -> None:
        for node in nodes:
            if node.tag.name == "Allocation":
                events.append((node.start_time_ns, node.extra_fields.alloc_size, node.extra_fields.ptr))
            walk(node.children)

    walk(profiler.profiler.kineto_results.experimental_event_tree())
    live = peak = 0
    known: dict[int, int] = {}
    for _, size, pointer in sorted(events, key=lambda event: event[0]):
        if size > 0:
            known[pointer] = size
            live += size
        elif pointer in known:  # what was freed here may have been made before
            live -= known.pop(pointer)
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("method", ["naive", "log_softmax", "chunked"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tracker_sees_what_the_profiler_sees(method, checkpointing) -> None:
    torch.manual_seed(0)
    setup = StepSetup(4, 64, "fp32", method, chunk=64)
    model = build_model(SHAPE, setup).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(0, SHAPE.vocab, (4, 64))

    def step() -> None:
        loss, _ = loss_and_entropy(model, ids, ids, setup)
        loss.backward()

    step()  # what is made once and kept is there now
    model.zero_grad(set_to_none=True)
    with measured() as meter:
        step()
    model.zero_grad(set_to_none=True)
    assert meter.peak == pytest.approx(profiler_peak(step), rel=0.01)


def test_tracker_follows_views_in_place_operations_and_what_was_there_before() -> None:
    older = torch.zeros(MIB)
    with MemoryTracker() as tracker:
        view = older.view(2, -1).t()
        older.add_(1)
        assert tracker.live == tracker.peak == 0, "nothing new"
        new = older.double()
        halves = new.split(MIB // 2)
        new.mul_(2)
        assert tracker.live == 8 * MIB
        del new
        assert tracker.live == 8 * MIB, "its parts hold the storage"
        del halves
        assert tracker.live == 0 and tracker.peak == 8 * MIB
        out = torch.empty(0)
        torch.add(older, 1, out=out.resize_(MIB))
        assert tracker.live == 4 * MIB, "a storage that grew"
        tracker.reset_peak()
        assert tracker.peak == 4 * MIB
    assert view.shape == (MIB // 2, 2)
    assert tracker.largest == 8 * MIB


def test_memory_of_other_devices_is_not_counted() -> None:
    with MemoryTracker() as tracker:
        torch.zeros(MIB, device="meta") + 1
    assert tracker.peak == 0


def test_limit_stops_and_names_the_allocation() -> None:
    x = torch.zeros(MIB)
    with pytest.raises(MemoryLimitError, match="aten.exp tried to allocate 4.19 MB; 4.19 MB are live"):
        with MemoryTracker(limit=6 * MIB) as tracker:
            y = x + 1
            y.exp()
    del y
    gc.collect()
    assert tracker.live == 0


# --- the methods of the head


def plain(hidden, weight, labels):
    """In float64, by the formulas."""
    p = torch.softmax(hidden.double() @ weight.double().T, dim=-1)
    return p.gather(-1, labels[:, None]).log().squeeze(-1), -torch.special.xlogy(p, p).sum(-1)


METHODS = {
    "naive": logprob_variants.naive,
    "naive_with_graph": logprob_variants.naive_with_graph,
    "log_softmax": logprob_variants.log_softmax,
    "logsumexp": logprob_variants.logsumexp,
    "chunked_rows": lambda *a: logprob_variants.chunked_rows(*a, chunk=3),
    "recomputed": lambda *a: logprob_variants.recomputed(*a, chunk=3),
}


@pytest.mark.parametrize("name", METHODS)
@given(n=st.integers(1, 9), vocab=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_methods_agree_with_the_formula(name, n, vocab, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 5, generator=generator).requires_grad_()
    weight = torch.randn(vocab, 5, generator=generator).requires_grad_()
    labels = torch.randint(0, vocab, (n,), generator=generator)
    outcomes = []
    for method in (METHODS[name], plain):
        log_probs, entropy = method(hidden, weight, labels)
        assert log_probs.shape == entropy.shape == (n,)
        gradients = torch.autograd.grad(log_probs.sin().sum(), (hidden, weight))
        outcomes.append([log_probs, entropy, *gradients])
    for mine, formula in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine.double(), formula.double(), rtol=1e-4, atol=1e-5)


def copies(method) -> tuple[float, float]:
    """Peaks of forward and backward in tensors of [N, V] float32."""
    n, vocab = 512, 4096
    hidden, weight = torch.randn(n, 8).requires_grad_(), torch.randn(vocab, 8).requires_grad_()
    labels = torch.randint(0, vocab, (n,))
    with measured() as meter:
        log_probs, entropy = method(hidden, weight, labels)
        forward = meter.peak
        meter.reset_peak()
        log_probs.sum().backward()
    assert entropy.shape == (n,)
    return forward / (4 * n * vocab), meter.peak / (4 * n * vocab)


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("naive", 5, 3), ("naive_with_graph", 5, 5), ("log_softmax", 3, 3), ("logsumexp", 2, 5)],
)
def test_copies_of_the_logits(name, forward, backward) -> None:
    assert copies(METHODS[name]) == pytest.approx((forward, backward), rel=0.02)


def test_chunks_without_recomputation_keep_all_logits() -> None:
    kept, _ = copies(lambda *a: logprob_variants.chunked_rows(*a, chunk=32))
    assert 1.0 < kept < 1.2
    assert max(copies(lambda *a: logprob_variants.recomputed(*a, chunk=32))) < 0.4


# --- the search


@given(limit=st.integers(0, 300), largest=st.integers(1, 256))
def test_search_finds_the_largest_size_that_fits(limit, largest) -> None:
    search = search_batch(lambda batch: Trial(batch, batch, batch <= limit), limit, largest=largest)
    assert search.batch == min(limit, largest)
    tried = [trial.batch for trial in search.trials]
    assert len(set(tried)) == len(tried) <= 2 * largest.bit_length() + 1


def test_found_batch_fits_and_the_next_does_not() -> None:
    setup = StepSetup(1, 32, "fp32", "log_softmax")
    budget = 6_000_000
    search = find_batch_size(lambda: build_model(SHAPE, setup), setup, budget)
    peaks = {trial.batch: trial for trial in search.trials}
    assert peaks[search.batch].peak <= budget and not peaks[search.batch + 1].fits
    estimated = search_batch(
        lambda b: Trial(b, p := estimate_memory(SHAPE, StepSetup(b, 32, "fp32", "log_softmax")).peak, p <= budget),
        budget,
    )
    assert abs(estimated.batch - search.batch) <= 1


def test_large_allocations_are_listed_in_order() -> None:
    with MemoryTracker() as tracker:
        doubled = torch.zeros(2**18) * 2  # two storages of 1 MiB
        torch.zeros(4)
    assert [(one.operation, one.nbytes) for one in tracker.allocations] == [
        ("aten.zeros", 2**20),
        ("aten.mul.Tensor", 2**20),
    ]
    assert tracker.allocations[1].live == 2**21 and tracker.live == doubled.untyped_storage().nbytes()
