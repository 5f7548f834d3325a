"""Read and write the package's JSON, JSON Lines and CSV files, and whole folders.

Files and folders are replaced whole: after a crash at any moment a reader sees the old one or the new one.
"""

from __future__ import annotations

import csv
import errno
import glob
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from cs336_sft.errors import CourseError, DataError, RunDirectoryError

JSONDict = dict[str, Any]
ErrorType = type[CourseError]
LINE_REMEDY = "put one JSON object in each line"
RUN_FILE_REMEDY = "restore the file, or start a new run directory"


@contextmanager
def atomic_write(path: str | Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """Open a file that takes the place of `path` once it is whole and on the disk.

    Missing parent folders are created. Text is UTF-8, and line ends are written as given.
    Raises RunDirectoryError: the file could not be written; `path` is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: os.replace is then atomic
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a killed process
            leftover.unlink(missing_ok=True)
        try:
            with temporary.open("wb") if binary else temporary.open("w", encoding="utf-8", newline="") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # half a file would keep a full disk full
            raise


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write or replace a JSON file."""
    with atomic_write(path) as file:
        file.write(_to_json(value, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write or replace a JSON Lines file, one row a line."""
    with atomic_write(path) as file:
        for row in rows:
            file.write(_to_json(row) + "\n")


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write or replace a CSV file with a column for every key, by first occurrence."""
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def parse_json(content: bytes | str, where: str, error: ErrorType = DataError, remedy: str = "correct it") -> JSONDict:
    """Parse one JSON object, or raise an `error` that begins with `where`."""
    try:
        # "surrogatepass": Python writes half of a surrogate pair so, and generated text may hold one.
        text = content if isinstance(content, str) else content.decode("utf-8", "surrogatepass")
        value = json.loads(text.removeprefix("\ufeff"))
    except UnicodeDecodeError as bad:
        raise error(f"{where}: byte {bad.start + 1} is not UTF-8", "save the file as UTF-8") from bad
    except (ValueError, RecursionError) as bad:
        reason = f"column {bad.colno}: {bad.msg}" if isinstance(bad, json.JSONDecodeError) else str(bad)
        raise error(f"{where}: not JSON ({reason})", remedy) from bad
    if not isinstance(value, dict):
        raise error(f"{where}: not a JSON object", remedy)
    return value


def parse_jsonl(
    content: bytes | str, name: str, error: ErrorType = DataError, remedy: str = LINE_REMEDY
) -> Iterator[tuple[str, JSONDict]]:
    r"""Yield `("<name>, line <number>", object)` for each line that is not blank.

    Errors are those of `parse_json`.

    >>> list(parse_jsonl('{"a": 1}\r\n\r\n{"a": 2}', "stdin"))
    [('stdin, line 1', {'a': 1}), ('stdin, line 3', {'a': 2})]
    """
    # Split as bytes or at "\n" alone: a line in another encoding can be named, and U+2028 in a string ends no line.
    for number, line in enumerate(content.split(b"\n" if isinstance(content, bytes) else "\n"), start=1):
        if line.strip(b"\xef\xbb\xbf \t\r" if isinstance(line, bytes) else "\ufeff \t\r"):
            where = f"{name}, line {number}"
            yield where, parse_json(line, where, error, remedy)


def read_json(path: str | Path, error: ErrorType = RunDirectoryError, remedy: str = RUN_FILE_REMEDY) -> JSONDict:
    """Read a JSON object from a file, by default from a run directory's."""
    return parse_json(_content(path, error, remedy), str(path), error, remedy)


def read_jsonl(
    path: str | Path, error: ErrorType = DataError, remedy: str = LINE_REMEDY
) -> Iterator[tuple[str, JSONDict]]:
    """Read a JSON Lines file as `parse_jsonl` does."""
    return parse_jsonl(_content(path, error, remedy), str(path), error, remedy)


class JsonLines:
    """A log in JSON Lines, to which a run appends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one line, so that a killed process loses no finished line."""
        line = _to_json(row) + "\n"
        with explain_write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def read(self) -> list[JSONDict]:
        """Read all whole rows, and leave out a last line without its end."""
        if not self.path.exists():
            return []
        *whole, _cut_off = self.path.read_bytes().split(b"\n")
        remedy = "repair the line, or start a new run directory"
        return [
            parse_json(line, f"{self.path}, line {number}", RunDirectoryError, remedy)
            for number, line in enumerate(whole, start=1)
        ]

    def keep(self, wanted: Callable[[JSONDict], bool]) -> None:
        """Drop unwanted rows, and a line that was cut off, in one atomic step."""
        if self.path.exists():
            write_jsonl(self.path, [row for row in self.read() if wanted(row)])

    def sync(self) -> None:
        """Wait until the file is on the disk, so that not even a power failure undoes it."""
        if self.path.exists():
            with explain_write_errors(self.path):
                _sync(self.path)


def plain(row: Mapping[str, Any]) -> JSONDict:
    """Convert numpy's and torch's scalars to numbers, nan and infinities to None."""
    values = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, then put it in the place of `path`.

    Raises RunDirectoryError: it could not be written; `path` is as it was.
    """
    temporary, old = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old.tmp")
    if old.exists() and not path.exists():
        old.rename(path)  # a crash came between the two renames below
    for leftover in (temporary, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    with explain_write_errors(path):
        temporary.mkdir(parents=True)
        try:
            write(temporary)
            for item in temporary.iterdir():
                _sync(item)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # half a checkpoint would keep a full disk full
            raise
    if path.exists():
        path.rename(old)
    temporary.rename(path)
    _sync(path.parent)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error into one that names the file and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors wraps the OSError of a full disk
        text = (getattr(error, "strerror", None) or str(error)).strip()
        reason = text.splitlines()[0].rstrip(".") if text else type(error).__name__
        path_errors = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
        if isinstance(error, OSError) and error.errno in path_errors:
            remedy = "check the path and its permissions"
        else:
            remedy = "free some space (or raise the quota) and start the run again: it goes on from its last checkpoint"
        raise RunDirectoryError(f"{path}: could not be written ({reason})", remedy) from error


def _content(path: str | Path, error: ErrorType, remedy: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as failure:
        raise error(f"{path} can't be read: {failure.strerror or type(failure).__name__}", remedy) from failure


def _to_json(value: Mapping[str, Any], indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which generated text may hold: write it as \ud800
        return json.dumps(value, indent=indent, allow_nan=False)
    return text


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # folders can't be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
