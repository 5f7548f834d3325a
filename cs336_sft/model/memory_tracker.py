"""Live and peak bytes of the tensors that a piece of code makes, counted exactly on the CPU.

``MemoryTracker`` looks at every operation that is dispatched and counts the storages among its results until they are
freed: the same code gives the same bytes on every machine. Scratch memory within one operation is not seen.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cs336_sft.errors import CourseError
from cs336_sft.model.memory_estimate import format_bytes


class MemoryLimitError(CourseError, MemoryError):
    """An operation that asked for ``asked`` bytes, with ``live`` bytes alive, would have exceeded the limit."""

    def __init__(self, operation: str, asked: int, live: int, limit: int) -> None:
        super().__init__(
            f"{operation} tried to allocate {format_bytes(asked)}; {format_bytes(live)} are live, "
            f"the limit is {format_bytes(limit)}",
            "use a smaller micro-batch or shorter sequences, or hold fewer copies of the logits",
        )
        self.operation, self.asked, self.live, self.limit = operation, asked, live, limit


@dataclass(frozen=True)
class Allocation:
    """One new storage: the operation that made it, its bytes, and the live bytes right after."""

    operation: str
    nbytes: int
    live: int


class MemoryTracker(TorchDispatchMode):
    """Counts the storages that are made inside the ``with`` block, on one device, until they are freed.

    Tensors that were there before count nothing (a model's weights, say), so ``peak`` is what the block needs on top.

    Attributes:
        live, peak: bytes now, and at most so far.
        limit: raise ``MemoryLimitError`` once more bytes than these are live, as a GPU of that size would.
        allocations: every new storage of at least ``smallest`` bytes, in order.

    >>> with MemoryTracker() as tracker:
    ...     y = (torch.zeros(1000) + 1).sum()  # twice 4,000 bytes for a moment, and a number that stays
    >>> tracker.live, tracker.peak
    (4, 8000)
    """

    def __init__(self, device: str = "cpu", *, limit: int | None = None, smallest: int = 2**20) -> None:
        super().__init__()
        self.device, self.limit, self.smallest = torch.device(device).type, limit, smallest
        self.live = self.peak = 0
        self.allocations: list[Allocation] = []
        self._sizes: dict[int, int] = {}  # address of a storage's C++ object -> bytes
        self._before: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # Views and in-place operations return what was there before: those storages are not new.
        for value in tree_iter((args, kwargs)):
            if isinstance(value, torch.Tensor) and value.device.type == self.device:
                self._note_older(value.untyped_storage())
        out = func(*args, **kwargs)
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor) and value.device.type == self.device:
                self._count(value.untyped_storage(), str(func).removesuffix(".default"))
        return out

    def reset_peak(self) -> None:
        """Start a new peak at what is live now."""
        self.peak = self.live

    def _note_older(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes and key not in self._before:
            self._before.add(key)
            weakref.finalize(storage, self._before.discard, key)

    def _count(self, storage: torch.UntypedStorage, operation: str) -> None:
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self._before or self._sizes.get(key) == nbytes:
            return
        grown = nbytes - self._sizes.get(key, 0)  # an operation may resize the storage of its result
        live = self.live + grown
        if self.limit is not None and live > self.limit:
            raise MemoryLimitError(operation, grown, self.live, self.limit)
        if key not in self._sizes:
            # PyTorch keeps the Python object of a storage for as long as the storage lives, so this runs at its end.
            weakref.finalize(storage, self._free, key)
        self._sizes[key] = nbytes
        self.live, self.peak = live, max(self.peak, live)
        if nbytes >= self.smallest:
            self.allocations.append(Allocation(operation, nbytes, live))

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
