"""The process that runs the learner's code: functions in, values out, no verdict.

It imports what is heavy once, then forks a worker for each file, so that files can't touch one another. A worker
limits its memory, its processor time and its output, imports the file and calls its functions on the cases that the
checker sends. It never sees an expected value: the checker, which never imports the file, compares.

Run by ``runner.Server`` as ``python -c "from cs336_sft.exercises.sandbox.server import main; main()"``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
import sys
from types import ModuleType
from typing import Any, BinaryIO

from cs336_sft.exercises.sandbox.perform import Crash, Observation, crash_of, observation_to_wire, perform
from cs336_sft.exercises.sandbox.wire import MAX_FRAME, decode, encode

MAX_OUTPUT_BYTES = 2**20


def main() -> None:
    """Serve until the checker closes its end."""
    import torch
    import transformers

    torch.set_num_threads(1)
    assert transformers.PreTrainedTokenizerFast  # loaded lazily: now, not once for each file
    # The learner's prints must not end up between the frames.
    incoming, outgoing = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    send(outgoing, encode({"ready": True}))
    while (frame := receive(incoming)) is not None:
        task = decode(frame)
        if task.get("op") == "preload":
            for name in task["modules"]:
                importlib.import_module(name)
            send(outgoing, encode({"preloaded": True}))
        if task.get("op") != "load":
            continue
        pid = os.fork()
        if pid == 0:
            try:
                work(task, incoming, outgoing)
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        send(outgoing, encode({"nonce": task["nonce"], "ended": os.waitstatus_to_exitcode(status)}))


def send(stream: BinaryIO, frame: bytes) -> None:
    """Write one frame behind its length."""
    data = memoryview(struct.pack("<Q", len(frame)) + frame)
    while data:
        data = data[stream.write(data) :]


def receive(stream: BinaryIO) -> bytes | None:
    """Read one frame; None at the end of the stream."""

    def exactly(count: int) -> bytes | None:
        parts = b""
        while len(parts) < count:
            part = stream.read(count - len(parts))
            if not part:
                return None
            parts += part
        return parts

    head = exactly(8)
    if head is None:
        return None
    (length,) = struct.unpack("<Q", head)
    return exactly(length) if length <= MAX_FRAME else None


def work(task: dict[str, Any], incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """One learner's file: import it, then call its functions as asked, until told to stop."""
    file, nonce = task["file"], task["nonce"]

    def reply(**parts: Any) -> None:
        send(outgoing, encode({"nonce": nonce, **parts}))

    os.chdir(task["folder"])
    log = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.append(os.path.dirname(file))  # helper modules beside the exercise
    limit(task["memory"], task["seconds"])
    try:
        module = load(file)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        reply(seen=observation_to_wire(Observation(crash=crash_of(error, file))).hex())
        return
    reply(loaded=True)
    while (frame := receive(incoming)) is not None:
        asked = decode(frame)
        if asked.get("op") != "call":
            break
        function = getattr(module, asked["function"], None)
        if callable(function):
            seen = perform(function, bytes.fromhex(asked["request"]), file=file)
        else:
            seen = Observation(crash=Crash("AttributeError", f"the file has no function {asked['function']}"))
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):  # closed, replaced or over its limit: theirs to do
                continue
        reply(seen=observation_to_wire(seen).hex(), number=asked["number"])


def load(file: str) -> ModuleType:
    """Import the learner's file under a name of its own."""
    spec = importlib.util.spec_from_file_location("learner_exercise", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["learner_exercise"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def limit(memory: int, seconds: float) -> None:
    """Limits on address space beyond what is in use now, on processor time and on the size of files."""
    try:
        import resource
    except ImportError:  # not on Windows, where the checker's clock is the only limit
        return
    limits = [
        (resource.RLIMIT_CPU, int(seconds) + 2),
        (resource.RLIMIT_FSIZE, MAX_OUTPUT_BYTES),
        (resource.RLIMIT_CORE, 0),
    ]
    if (in_use := address_space()) is not None:
        limits.append((resource.RLIMIT_AS, in_use + memory))
    for kind, value in limits:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):  # macOS refuses some of them
            continue


def address_space() -> int | None:
    """Bytes of address space in use, or None where /proc does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
