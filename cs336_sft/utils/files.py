"""Reading and writing the small files of a run so that a crash at any moment leaves them readable.

JSON and CSV files are replaced whole: a reader sees the old one or the new one. JSONL files grow by a line at a time;
a last line that was cut off by a crash is left out when they are read.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cs336_sft.errors import RunDirectoryError

Record = dict[str, Any]


class JsonLines:
    """A JSONL file of records, to which a run appends.

    >>> import tempfile
    >>> lines = JsonLines(Path(tempfile.mkdtemp()) / "metrics.jsonl")
    >>> for step in (1, 2, 3):
    ...     lines.append({"step": step, "loss": 1 / step})
    >>> lines.keep(lambda record: record["step"] <= 1)
    >>> lines.read()
    [{'step': 1, 'loss': 1.0}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """One line, handed to the operating system before this returns: a killed process loses no finished line.

        Raises:
            RunDirectoryError: it could not be written, for want of space for example.
        """
        line = _to_line(record)
        with telling_what_failed(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def read(self) -> list[Record]:
        """All whole records; a last line without its end is left out.

        Raises:
            RunDirectoryError: any other line that is not a JSON object; the message names file and line.
        """
        if not self.path.exists():
            return []
        *whole, _cut_off = self.path.read_bytes().split(b"\n")
        records = []
        for number, line in enumerate(whole, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise RunDirectoryError(
                    f"{self.path}, line {number}: not a JSON object", "repair the line, or start a new run directory"
                )
            records.append(record)
        return records

    def keep(self, wanted: Callable[[Record], bool]) -> None:
        """Drop the records that are not wanted, and a line that was cut off, in one atomic replacement."""
        if self.path.exists():
            _replace(self.path, "".join(_to_line(record) for record in self.read() if wanted(record)))

    def sync(self) -> None:
        """Wait until the file is on the disk, so that not even a power failure undoes it."""
        if self.path.exists():
            with telling_what_failed(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())


@contextmanager
def telling_what_failed(path: Path) -> Iterator[None]:
    """Makes of the operating system's error one that names the file and what to do.

    Raises:
        RunDirectoryError: the file or folder could not be written.
    """
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: Exception) -> RunDirectoryError:
    """The error to raise for a file or folder of a run that could not be written.

    >>> print(unwritten(Path("run/metrics.jsonl"), OSError(errno.EACCES, "Permission denied")))
    run/metrics.jsonl: could not be written (Permission denied). Remedy: check the path and its permissions.
    """
    text = (getattr(error, "strerror", None) or str(error)).strip()
    reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT):
        remedy = "check the path and its permissions"
    else:
        remedy = "free some space (or raise the quota) and start the run again: it goes on from its last checkpoint"
    return RunDirectoryError(f"{path}: could not be written ({reason})", remedy)


def read_json(path: Path) -> Record:
    """A JSON object from a file.

    Raises:
        RunDirectoryError: the file holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path}: not a JSON object", "restore the file, or start a new run directory")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write or replace a JSON file; a reader, or a crash, never meets half of it."""
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, records: list[Record]) -> None:
    """Write or replace a CSV file with a column for every key, in the order in which the keys first occur."""
    columns = list(dict.fromkeys(key for record in records for key in record))
    with _replacing(path) as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def plain(record: Mapping[str, Any]) -> Record:
    """A record of JSON values: numpy's and torch's scalars become numbers; nan and infinities, which JSON lacks, None.

    >>> plain({"avg_gen_len_wrong": float("nan"), "n": 3})
    {'avg_gen_len_wrong': None, 'n': 3}
    """
    values = {key: value.item() if hasattr(value, "item") else value for key, value in record.items()}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _to_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _replace(path: Path, text: str) -> None:
    with _replacing(path) as file:
        file.write(text)


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A text file that takes the place of ``path`` once it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with telling_what_failed(path):
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)  # half a file would keep a full disk full
            raise
