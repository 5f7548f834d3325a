"""The directory of a run.

config.json, versions.json                   settings and fingerprints; packages and device of every session
metrics.jsonl/.csv, evaluations.jsonl/.csv   a record for each optimizer step and for each evaluation
generations/, checkpoints/, final/           files of the evaluator; see ``checkpoints``; model and tokenizer
result.json                                  written last: a run that has it is finished
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cs336_sft.errors import RunDirectoryError
from cs336_sft.utils.files import JSONDict, JsonLines, read_json, write_csv, write_json

_OURS = {"run.lock", "run.owner", "versions.json", "generations", "checkpoints", "best"}


class RunDirectory:
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
        """Create the directory and lock it against a second run.

        The operating system releases the lock when its process ends, so a killed run leaves none behind.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunDirectoryError(f"{self.path}: is a file", "choose another run directory")
        names = {item.name for item in self.path.iterdir()} if self.path.exists() else set()
        strangers = {name for name in names - _OURS if not name.startswith(".")}
        if strangers and not (self.path / "config.json").exists():
            problem = f"{self.path}: is not a run (no config.json), but holds {sorted(strangers)[0]!r}"
            raise RunDirectoryError(problem, "choose a new or empty run directory")
        self.path.mkdir(parents=True, exist_ok=True)
        lock, owner = FileLock(self.path / "run.lock"), self.path / "run.owner"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            name = owner.read_text() if owner.exists() else "another process"
            remedy = "wait for that run, stop it, or choose another run directory"
            raise RunDirectoryError(f"{self.path}: in use by {name}", remedy) from None
        try:
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}")
            self.generations.mkdir(exist_ok=True)
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def check_config(self, config: Mapping[str, Any], free: Iterable[str] = ()) -> JSONDict:
        """Store the configuration of a new run, or check that of an existing one.

        Fields in ``free`` may differ. Those that do are stored, and returned as ``{field: [old, new]}``.
        """
        path = self.path / "config.json"
        config = json.loads(json.dumps(config))  # tuples become lists, as they will be when read back
        stored = read_json(path) if path.exists() else config
        changed = [name for name in sorted({*stored, *config}) if stored.get(name) != config.get(name)]
        changes = {name: [stored.get(name), config.get(name)] for name in changed}
        refused = [f"{n} was {_brief(old)}, now {_brief(new)}" for n, (old, new) in changes.items() if n not in free]
        if refused:
            problem = f"{self.path}: made with another configuration: {'; '.join(refused)}"
            raise RunDirectoryError(problem, "choose another run directory, or go on with the stored configuration")
        write_json(path, config)
        return changes

    def add_session(self, facts: Mapping[str, Any]) -> None:
        path = self.path / "versions.json"
        sessions = read_json(path)["sessions"] if path.exists() else []
        write_json(path, {"sessions": [*sessions, dict(facts)]})

    def write_tables(self) -> None:
        for lines in (self.metrics, self.evaluations):
            write_csv(lines.path.with_suffix(".csv"), lines.read())


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:19]}...{text[-1]}"
