"""A run is a directory: everything that went in, everything that came out, and enough to go on after a crash.

::

    config.json         what was asked for, with fingerprints of the data and of the starting weights
    versions.json       Python, packages, device and date of every session that worked on the run
    metrics.jsonl/.csv  one record an optimizer step; the JSONL file is the original, the CSV made from it
    evaluations.jsonl/.csv
    generations/        what the evaluator cares to write
    checkpoints/        see ``checkpoints``
    final/              model and tokenizer, as ``save_pretrained`` writes them
    result.json         written last: a run that has it is finished
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cs336_sft.errors import RunDirectoryError
from cs336_sft.utils.files import JsonLines, read_json, write_csv, write_json

_OURS = {"run.lock", "run.owner.json", "versions.json", "generations", "checkpoints", "best"}


class RunDirectory:
    """Paths and files of one run.

    >>> import tempfile
    >>> run = RunDirectory(tempfile.mkdtemp())
    >>> run.check_config({"seed": 0})
    >>> run.check_config({"seed": 1})
    Traceback (most recent call last):
    ...
    cs336_sft.errors.RunDirectoryError: ...: made with another configuration: seed was 0, now 1. Remedy: ...
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.metrics = JsonLines(self.path / "metrics.jsonl")
        self.evaluations = JsonLines(self.path / "evaluations.jsonl")
        self.checkpoints = self.path / "checkpoints"
        self.generations = self.path / "generations"
        self.final = self.path / "final"
        self.result = self.path / "result.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory and hold it: no second run may write here.

        The operating system gives the lock back when its process ends, however it ends, so the lock of a killed run
        is no obstacle.

        Raises:
            RunDirectoryError: another process (or another run in this one) holds it, or the directory holds files
                that are no run's.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path}: is a file", "choose another run directory")
        names = {item.name for item in self.path.iterdir()} if self.path.exists() else set()
        strangers = {name for name in names - _OURS if not name.startswith(".")}
        if strangers and not (self.path / "config.json").exists():
            raise RunDirectoryError(
                f"{self.path}: is not a run (no config.json), but holds {sorted(strangers)[0]!r}",
                "choose a new or empty run directory",
            )
        self.path.mkdir(parents=True, exist_ok=True)
        owner_path = self.path / "run.owner.json"
        lock = FileLock(self.path / "run.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            owner = _read_owner(owner_path)
            raise RunDirectoryError(
                f"{self.path}: in use by {owner}", "wait for that run, stop it, or choose another run directory"
            ) from None
        try:
            write_json(
                owner_path,
                {
                    "pid": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.now(UTC).isoformat("T", "seconds"),
                },
            )
            self.generations.mkdir(exist_ok=True)
            yield
        finally:
            owner_path.unlink(missing_ok=True)
            lock.release()

    def check_config(self, config: Mapping[str, Any], free: Iterable[str] = ()) -> None:
        """Store the configuration of a new run; for one that exists demand that it is the same.

        Args:
            config: flat, of JSON values.
            free: fields that may differ, because they do not change the result.

        Raises:
            RunDirectoryError: fields differ; the message names each with both values.
        """
        path = self.path / "config.json"
        config = json.loads(json.dumps(config))  # tuples become lists, as they will be when read back
        if path.exists():
            stored = read_json(path)
            differing = [
                f"{name} was {_brief(stored.get(name))}, now {_brief(config.get(name))}"
                for name in sorted({*stored, *config} - set(free))
                if stored.get(name) != config.get(name)
            ]
            if differing:
                raise RunDirectoryError(
                    f"{self.path}: made with another configuration: {'; '.join(differing)}",
                    "choose another run directory, or go back to the stored configuration to go on with this run",
                )
        write_json(path, config)

    def add_session(self, facts: Mapping[str, Any]) -> None:
        """Note in ``versions.json`` who works on the run from now on."""
        path = self.path / "versions.json"
        sessions = read_json(path)["sessions"] if path.exists() else []
        write_json(path, {"sessions": [*sessions, dict(facts)]})

    def write_tables(self) -> None:
        """Make the CSV files from the JSONL files."""
        for lines in (self.metrics, self.evaluations):
            write_csv(lines.path.with_suffix(".csv"), lines.read())


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:19]}...{text[-1]}"


def _read_owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_bytes())
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has the lock, but has not written its name yet
