"""MATH-style answers (expressions, intervals, matrices): judged by math-verify in a process that can be killed.

math-verify runs sympy on model text, which may take for ever or all memory (``8**8**8**8``). So it runs in a
subprocess with a memory limit, and the parent kills it when a comparison takes too long. Needs the optional extra
``math`` and a POSIX system. The numeric graders never come here unless they are given a ``MathVerifier``.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cs336_sft.errors import ConfigError

_START_SECONDS = 60.0
_TEXT_LIMIT = 1_000


@dataclass(frozen=True)
class MathVerdict:
    """Whether two expressions are equal, and how that was found out.

    >>> MathVerdict(equal=False, reason="killed after 5 s").equal
    False
    """

    equal: bool
    reason: str


class MathVerifier:
    """A math-verify process, started at the first question and again after each kill.

    Args:
        time_limit: seconds for one comparison; at the limit the process is killed and the answer counts as wrong.
        memory_limit_mb: address space of the process in MiB.

    Raises:
        ConfigError: math-verify can't be started (the message says how to install it), or a limit is not positive.

    Use it in a ``with`` block, one per thread::

        with MathVerifier(time_limit=5) as math:
            question_only_reward_fn(response, "[0, 1)", math=math)
    """

    def __init__(self, time_limit: float = 5.0, memory_limit_mb: int = 2048) -> None:
        if not time_limit > 0 or not memory_limit_mb > 0:
            raise ConfigError(
                f"MathVerifier limits are {time_limit!r} s and {memory_limit_mb!r} MiB", "give positive limits"
            )
        self.time_limit = time_limit
        self.memory_limit_mb = memory_limit_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""

    def __enter__(self) -> MathVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, if one runs."""
        process, self._process, self._pending = self._process, None, b""
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def compare(self, answer: str, truth: str) -> MathVerdict:
        """Whether ``answer`` equals ``truth`` as mathematics; False when it can't be said within the limits."""
        if len(answer) > _TEXT_LIMIT:
            return MathVerdict(False, f"more than {_TEXT_LIMIT} characters where the answer should stand")
        process = self._process or self._start()
        request = json.dumps({"answer": answer, "truth": truth}) + "\n"
        try:
            assert process.stdin is not None
            process.stdin.write(request.encode())
            process.stdin.flush()
            reply = self._read_line(process, self.time_limit)
        except BrokenPipeError:
            reply = b""
        if reply is None:
            self.close()
            return MathVerdict(False, f"killed after {self.time_limit:g} s")
        if not reply:
            self.close()
            return MathVerdict(False, "the process died, most likely of its memory limit")
        return MathVerdict(**json.loads(reply))

    def _start(self) -> subprocess.Popen[bytes]:
        # -P keeps the script's folder off the import path: its modules have common names.
        self._pending = b""
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
        """One line of the process's output; b"" if it ended, None if the time is up."""
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                chunk = os.read(process.stdout.fileno(), 65_536)
                if not chunk:
                    return b""
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line
