"""Where the learner's file is, and the shipped stub that it started from."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.exercises.registry import ASSETS, Exercise

ROOT = Path(__file__).resolve().parents[2]


def learner_file(exercise: Exercise, given: str | os.PathLike[str] | None = None) -> Path:
    """Find the given file, or the one in ``exercises/``, or raise DataError."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise DataError(f"{given}: no such file", "give the path of the file with your functions")
        return path
    for place in (Path("exercises"), Path("."), ROOT / "exercises"):
        if (path := place / exercise.file_name).is_file():
            return path
    raise DataError(
        f"exercises/{exercise.file_name}: no such file",
        f"`cs336-sft reset {exercise.number}` writes the stub, or name your file with --file",
    )


def stub_text(exercise: Exercise) -> str:
    """Read the shipped stub, which is kept with the package and never edited."""
    return (ASSETS / f"{exercise.file_name}.txt").read_text(encoding="utf-8")


def solution_file(exercise: Exercise) -> Path:
    """Find the solution, or raise DataError outside a checkout."""
    path = ROOT / "solutions" / exercise.file_name
    if not path.is_file():
        raise DataError(f"solutions/{exercise.file_name}: no such file", "solutions come with the course's repository")
    return path


def untouched(exercise: Exercise, text: str) -> bool:
    """Return whether the code is the stub's, or raise SyntaxError."""
    return ast.dump(ast.parse(text)) == ast.dump(ast.parse(stub_text(exercise)))


def displayed(path: Path) -> str:
    """Shorten a path: as seen from the current folder where that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except ValueError:  # on Windows, another drive
        return str(path)


def write_stub(exercise: Exercise, path: Path) -> Path | None:
    """Put the stub at a path, and return where the file that was there is kept."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", "give the path of a file")
    kept, stub = None, stub_text(exercise)
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != stub:
        number = 1
        while (kept := path.with_name(f"{path.stem}.before-reset-{number}.py")).exists():
            number += 1
        path.rename(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(stub, encoding="utf-8")
    return kept
