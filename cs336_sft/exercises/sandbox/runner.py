"""The checker's side: starts the process for the learner's code, sends cases, gets observations, keeps the clock.

Nothing here imports, evaluates or unpickles anything of the learner's.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.exercises.sandbox.perform import (
    Case,
    Crash,
    Observation,
    observation_from_wire,
    observation_to_wire,
    perform,
    request_of,
)
from cs336_sft.exercises.sandbox.wire import MAX_FRAME, WireError, decode, encode

MIB = 2**20
_START = "from cs336_sft.exercises.sandbox.server import main; main()"
_STARTUP_SECONDS = 120.0


@dataclass(frozen=True)
class Limits:
    """What one file may use.

    Attributes:
        seconds: wall-clock time for all of its check.
        memory: bytes beyond what Python and PyTorch need themselves.

    Raises:
        ConfigError: one of them is not positive.
    """

    seconds: float = 20.0
    memory: int = 1024 * MIB

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"Limits.seconds is {self.seconds!r}", "give a positive number of seconds")
        if not self.memory > 0:
            raise ConfigError(f"Limits.memory is {self.memory!r}", "give a positive number of bytes")


class Stopped(Exception):  # noqa: N818 - not an error of ours
    """The learner's process is no more, or was ended.

    Attributes:
        crash: what to tell the learner.
    """

    def __init__(self, crash: Crash) -> None:
        super().__init__(crash.text)
        self.crash = crash


class Server:
    """The process that runs learners' files, one after the other. A context manager.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder, Server() as server:
    ...     file = pathlib.Path(folder, "mine.py")
    ...     _ = file.write_text("def double(x): return 2 * x")
    ...     with server.open(file) as session:
    ...         print(session.observe("double", Case((21,))).value)
    42
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def open(self, file: Path, *, preload: Sequence[str] = ()) -> Session:
        """A session with one file; ``preload``: modules of ours to import before the file's process is forked."""
        return Session(self, file, preload)

    def start(self) -> subprocess.Popen:
        """The running process; started if there is none."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.stop()
        root = str(Path(__file__).resolve().parents[3])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        if self.receive(time.monotonic() + _STARTUP_SECONDS).get("ready") is not True:
            raise CourseError("the process for the exercises did not start", "run `cs336-sft doctor`")
        return self._process

    def stop(self) -> None:
        """End the process and all that it started."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process = None

    def preload(self, modules: Sequence[str]) -> None:
        """Import modules of ours there before a file's clock starts, so that a busy machine doesn't use it up."""
        deadline = time.monotonic() + _STARTUP_SECONDS
        self.send({"op": "preload", "modules": list(modules)}, deadline)
        if self.receive(deadline).get("preloaded") is not True:
            raise Stopped(Crash("Garbled", "the process sent what is no message"))

    def send(self, message: dict[str, Any], deadline: float) -> None:
        """Send one message."""
        frame = encode(message)
        data = memoryview(struct.pack("<Q", len(frame)) + frame)
        pipe = self._process.stdin.fileno()
        while data:
            if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                raise Stopped(self._too_slow())
            try:
                data = data[os.write(pipe, data[:4096]) :]
            except BrokenPipeError as error:
                raise Stopped(Crash("Ended", "the process ended")) from error

    def receive(self, deadline: float) -> dict[str, Any]:
        """The next message.

        Raises:
            Stopped: there was none in time, or none that can be read.
        """
        (length,) = struct.unpack("<Q", self._read(8, deadline))
        if length > MAX_FRAME:
            raise Stopped(Crash("Garbled", "the process sent what is no message"))
        try:
            message = decode(self._read(length, deadline))
        except WireError as error:
            raise Stopped(Crash("Garbled", "the process sent what is no message")) from error
        if not isinstance(message, dict):
            raise Stopped(Crash("Garbled", "the process sent what is no message"))
        return message

    def _read(self, count: int, deadline: float) -> bytes:
        pipe = self._process.stdout.fileno()
        parts = bytearray()
        while len(parts) < count:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Stopped(self._too_slow())
            part = os.read(pipe, min(count - len(parts), MIB))
            if not part:
                raise Stopped(Crash("Ended", "the process ended"))
            parts += part
        return bytes(parts)

    def _too_slow(self) -> Crash:
        return Crash(
            "Timeout", f"not done after {self.limits.seconds:g} s, so it was stopped: is there an endless loop?"
        )


class Session:
    """One file in the server's process. A context manager; entering it imports the file there.

    Attributes:
        printed: after the end, the last 2,000 characters that the file's code printed.
    """

    def __init__(self, server: Server, file: Path, preload: Sequence[str]) -> None:
        self.printed = ""
        self._preload = list(preload)
        self._server = server
        self._file = file
        self._nonce = secrets.token_hex(16)
        self._calls = 0
        self._deadline = 0.0
        self._alive = False

    def __enter__(self) -> Session:
        self._server.start()
        try:
            self._server.preload(self._preload)
        except Stopped:  # a process that the file before left behind wrote into the pipe
            self._server.stop()
            self._server.start()
            self._server.preload(self._preload)
        self._folder = tempfile.TemporaryDirectory(prefix="cs336-exercise-", ignore_cleanup_errors=True)
        self._deadline = time.monotonic() + self._server.limits.seconds
        self._alive = True
        try:
            self._send(
                op="load",
                file=str(self._file.resolve()),
                nonce=self._nonce,
                folder=self._folder.name,
                memory=self._server.limits.memory,
                seconds=self._server.limits.seconds,
            )
            message = self._receive()
            if message.get("loaded") is not True:
                raise Stopped(self._seen(message).crash or Crash("Garbled", "the process sent what is no message"))
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def observe(self, function: str, case: Case) -> Observation:
        """Call the learner's function on a case.

        Raises:
            Stopped: the process ended, or had to be.
        """
        self._calls += 1
        self._send(op="call", function=function, request=request_of(case).hex(), number=self._calls)
        message = self._receive()
        if message.get("number") != self._calls:
            raise Stopped(Crash("Garbled", "the process sent what is no answer"))
        return self._seen(message)

    def _send(self, **message: Any) -> None:
        self._server.send(message, self._deadline)

    def _receive(self) -> dict[str, Any]:
        message = self._server.receive(self._deadline)
        if message.get("nonce") != self._nonce:
            raise Stopped(Crash("Garbled", "the process sent what is no answer"))
        if "ended" in message:
            self._alive = False
            raise Stopped(_ended(message["ended"], self._server.limits))
        return message

    @staticmethod
    def _seen(message: dict[str, Any]) -> Observation:
        try:
            return observation_from_wire(bytes.fromhex(message["seen"]))
        except (WireError, KeyError, TypeError, ValueError) as error:
            raise Stopped(Crash("Garbled", "the process sent what is no answer")) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._alive and kind is None:
            try:
                self._send(op="done")
                while "ended" not in self._server.receive(self._deadline):
                    continue
            except Stopped:
                self._server.stop()
        else:
            # What is left in the pipes belongs to nobody: the next file gets a new process.
            self._server.stop()
        self._alive = False
        output = Path(self._folder.name, "output.txt")
        if output.is_file() and not output.is_symlink():
            self.printed = output.read_bytes()[-2000:].decode("utf-8", errors="replace")
        self._folder.cleanup()


def _ended(status: Any, limits: Limits) -> Crash:
    if status == -getattr(signal, "SIGXCPU", 24):
        return Crash("Timeout", f"more than {limits.seconds:g} s of processor time, so it was stopped")
    if isinstance(status, int) and status < 0:
        return Crash("Ended", f"the process was ended by signal {-status}")
    return Crash("Ended", f"your code ended the process (exit status {status}) instead of returning")


def observe_here(function: Callable[..., Any], case: Case) -> Observation:
    """The observation of one of *our* functions (a reference or a known slip), in this process.

    >>> observe_here(lambda x: [x, x + 1], Case((1,))).value
    [1, 2]
    """
    return observation_from_wire(observation_to_wire(perform(function, request_of(case))))
