"""Signals as requests: on Ctrl-C or SIGTERM the training loop stops after the step that it is making."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopRequest:
    """While entered, SIGINT (Ctrl-C, "interrupt the kernel") and SIGTERM set ``requested`` instead of raising.

    The same signal once more raises ``KeyboardInterrupt`` at once, and so does the first inside ``at_once()``. (On one
    Ctrl-C ``torchrun``'s processes get both.) Outside a process's main thread this does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._seen: set[int] = set()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            # None: the handler was not installed by Python and can't be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise at the first signal, for work that can be thrown away."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = number in self._seen
        self._seen.add(number)
        first, self.requested = not self.requested, True
        if again or self._at_once:
            raise KeyboardInterrupt
        if first:  # not print: this may have interrupted a half-made print, which must not be entered twice
            os.write(2, b"\nStopping after this step (once more: at once)\n")
