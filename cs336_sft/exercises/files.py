"""Where the learner's file is, and the shipped stub that it started from."""

from __future__ import annotations

import ast
import os
from pathlib import Path

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.exercises.registry import Exercise

_PACKAGE = Path(__file__).resolve().parent.parent
ROOT = _PACKAGE.parent


def learner_file(exercise: Exercise, given: str | os.PathLike[str] | None = None) -> Path:
    """The file to check: the given one, else ``exercises/`` of the current folder, else of the checkout.

    Raises:
        DataError: there is none.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise DataError(f"{given}: no such file", "give the path of the file with your functions")
        return path
    places = [Path("exercises"), Path("."), ROOT / "exercises"]
    for place in places:
        if (path := place / exercise.file_name).is_file():
            return path
    raise DataError(
        f"exercises/{exercise.file_name}: no such file",
        f"`cs336-sft reset {exercise.number}` writes the stub, or name your file with --file",
    )


def stub_text(exercise: Exercise) -> str:
    """The shipped stub. It is kept with the package, so it stays as it is when the learner's copy changes."""
    return (_PACKAGE / "assets" / "exercises" / f"{exercise.file_name}.txt").read_text(encoding="utf-8")


def solution_file(exercise: Exercise) -> Path:
    """The solution in the checkout.

    Raises:
        DataError: the package was installed without it.
    """
    path = ROOT / "solutions" / exercise.file_name
    if not path.is_file():
        raise DataError(f"solutions/{exercise.file_name}: no such file", "solutions come with the course's repository")
    return path


def untouched(exercise: Exercise, text: str) -> bool:
    """True if the code is the stub's: comments, docstrings and layout don't count.

    Raises:
        SyntaxError: the text is no Python.
    """
    return _code(text) == _code(stub_text(exercise))


def _code(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and type(first.value.value) is str:
                node.body = node.body[1:]
    return ast.dump(tree)


def displayed(path: Path) -> str:
    """The path as short as it can be told: relative to the current folder where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def write_stub(exercise: Exercise, path: Path) -> Path | None:
    """Put the stub at ``path``; the file that was there is kept beside it. Returns where.

    Raises:
        ConfigError: the path is a folder.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder", "give the path of a file")
    kept = None
    if path.is_file():
        number = 1
        while (kept := path.with_name(f"{path.stem}.before-reset-{number}.py")).exists():
            number += 1
        path.rename(kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(stub_text(exercise), encoding="utf-8")
    return kept
