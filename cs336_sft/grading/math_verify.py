"""Compares expressions, intervals and matrices with math-verify, in a process that can be killed.

math-verify runs sympy on model text, which may take unlimited time or memory (``8**8**8**8``). Needs the optional
extra ``math`` and a POSIX system.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from cs336_sft.errors import ConfigError

_START_SECONDS = 60.0
_TEXT_LIMIT = 1_000


class Comparison(NamedTuple):
    equal: bool
    reason: str


class MathVerifier:
    """A math-verify process, started at the first comparison and again after each kill.

    ``time_limit`` is in seconds for one comparison, which counts as unequal at the limit; ``memory_limit_mb`` is the
    address space of the process in MiB. Use it in a ``with`` block, one per thread.
    Raises ConfigError: math-verify can't be started, or a limit is not positive.
    """

    def __init__(self, time_limit: float = 5.0, memory_limit_mb: int = 2048) -> None:
        if not time_limit > 0 or not memory_limit_mb > 0:
            raise ConfigError(f"limits of {time_limit!r} s and {memory_limit_mb!r} MiB", "give positive limits")
        self.time_limit = time_limit
        self.memory_limit_mb = memory_limit_mb
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if one runs."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()  # waits for its end and closes the pipes

    def compare(self, answer: str, truth: str) -> Comparison:
        """Compare two expressions, which count as unequal if a limit is reached."""
        if len(answer) > _TEXT_LIMIT:
            return Comparison(False, f"more than {_TEXT_LIMIT} characters where the answer should be")
        process = self._process or self._start()
        request = json.dumps({"answer": answer, "truth": truth}) + "\n"
        try:
            process.stdin.write(request.encode())
            process.stdin.flush()
            reply = self._read_line(process, self.time_limit)
        except BrokenPipeError:
            reply = b""
        if reply is None:
            self.close()
            return Comparison(False, f"killed after {self.time_limit:g} s")
        if not reply.endswith(b"\n"):
            self.close()
            return Comparison(False, "the process died, most likely of its memory limit")
        return Comparison(**json.loads(reply))

    def _start(self) -> subprocess.Popen[bytes]:
        # -P keeps the script's folder off the import path: its modules have common names.
        worker = Path(__file__).with_name("math_verify_worker.py")
        process = subprocess.Popen(
            [sys.executable, "-P", str(worker), str(self.memory_limit_mb * 2**20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._process = process
        if not self._read_line(process, _START_SECONDS):
            self.close()
            raise ConfigError("math-verify does not start", 'install it: pip install "cs336-sft[math]"')
        return process

    def _read_line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """Read a line of output: b"" if the process ended, None if its time was up."""
        start = time.monotonic()
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        return line if time.monotonic() - start < seconds else None
