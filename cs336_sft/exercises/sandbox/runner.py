"""The checker's side: starts the process for the learner's code, keeps the clock, and reads what came back.

Nothing here imports, evaluates or unpickles anything of the learner's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from cs336_sft.errors import CourseError
from cs336_sft.exercises.sandbox.perform import Crash, Observation, read_observation

MIB = 2**20
_START = "from cs336_sft.exercises.sandbox.child import main; main()"
_STARTUP_SECONDS = 120.0


@dataclass(frozen=True)
class Limits:
    """What one file may use."""

    seconds: float = 20.0  # wall-clock time for all of its check
    memory: int = 1024 * MIB  # bytes beyond what Python and PyTorch need themselves


class Server:
    """The process that runs learners' files, one after the other. A context manager; see ``checker.check_file``."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> subprocess.Popen:
        """Start the process unless it runs already, and return it."""
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
            bufsize=0,
            env=environment,
            start_new_session=True,
        )
        if self._answer(_STARTUP_SECONDS) != b"ready\n":
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

    def run(self, file: Path, exercise: str, calls: int) -> tuple[list[Observation], Crash | None, str]:
        """Call the file's functions on every case of an exercise.

        Args:
            file: the learner's file.
            exercise: its number; the cases are those of its module in ``checks``, as many as ``calls``.

        Returns what was observed, why there is no more of it (None if every call was made), and the last 2,000
        characters that the file's code printed.
        """
        with tempfile.TemporaryDirectory(prefix="cs336-exercise-", ignore_cleanup_errors=True) as folder:
            work, results, output = (Path(folder, name) for name in ("work", "results", "output"))
            work.mkdir()
            # Opened before the learner's code runs: replacing the files then changes nothing here.
            with results.open("w+b") as lines, output.open("w+b") as log:
                paths = {"file": file.resolve(), "folder": work, "results": results, "output": output}
                request = {name: str(path) for name, path in paths.items()} | asdict(self.limits)
                ended = self._work(request | {"exercise": exercise})
                log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
                printed = log.read().decode("utf-8", errors="replace")
                return *_read(lines.read().splitlines(), calls, ended), printed

    def _work(self, request: dict[str, object]) -> Crash:
        """Have a worker make the calls, and return how it ended."""
        process = self.start()
        process.stdin.write(json.dumps(request).encode() + b"\n")
        if self._answer(_STARTUP_SECONDS) != b"started\n":
            raise CourseError("the process for the exercises did not start", "run `cs336-sft doctor`")
        answer = self._answer(self.limits.seconds)
        if not answer:
            self.stop()
            if answer is None:
                limit = f"{self.limits.seconds:g} s"
                return Crash("Timeout", f"not done after {limit}, so it was stopped: is there an endless loop?")
            return Crash("Ended", "the process ended")
        status = int(answer)
        if status == -getattr(signal, "SIGXCPU", 24):
            return Crash("Timeout", f"more than {self.limits.seconds:g} s of processor time, so it was stopped")
        if status < 0:
            return Crash("Ended", f"the process was ended by signal {-status}")
        return Crash("Ended", f"your code ended the process (exit status {status}) instead of returning")

    def _answer(self, seconds: float) -> bytes | None:
        """Wait for the next line: empty if the process ended, None if out of time."""
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return None
        return self._process.stdout.readline()


def _read(lines: list[bytes], calls: int, ended: Crash) -> tuple[list[Observation], Crash | None]:
    """Read the results: a line about the import, then one for each call."""
    if ended.kind == "Timeout":
        return [], ended
    try:
        seen = [read_observation(line) for line in lines]
    except ValueError:
        seen = [Observation()] * (calls + 2)
    if len(seen) > calls + 1:
        return [], Crash("Garbled", "the process sent what is no answer")
    if seen and seen[0].crash:
        return [], seen[0].crash
    return seen[1:], None if len(seen) == calls + 1 else ended
