"""``check`` for notebooks: the source of a cell's function, and what it uses, become a file."""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.exercises.checker import check_file
from cs336_sft.exercises.files import learner_file
from cs336_sft.exercises.registry import EXERCISES, Exercise, find_exercise
from cs336_sft.exercises.report import Report
from cs336_sft.exercises.sandbox.runner import Server

_PLAIN = (bool, int, float, str, type(None))


def check(
    what: str | Callable[..., Any], *, file: str | os.PathLike[str] | None = None, exercise: str | None = None
) -> Report:
    """Check an exercise from a notebook: its file, or a function that a cell defines.

    Args:
        what: ``"ex03"``, or the function itself.
        file: the file to check instead of ``exercises/exNN_name.py``.
        exercise: which exercise a function is for, where its name fits several.

    Raises:
        CourseError: no such exercise or file, a name of several, or a function whose source can't be had.
    """
    if not callable(what):
        asked = find_exercise(what)
        path = learner_file(asked, file)
        with Server() as server:
            return check_file(asked, path, server)
    name = getattr(what, "__name__", repr(what))
    matching = [known.number for known in EXERCISES if name in known.functions]
    if len(matching) > 1 and exercise is None:
        raise ConfigError(f"{name} belongs to {' and '.join(matching)}", f"say which: exercise={matching[0]!r}")
    asked = find_exercise(exercise or (matching or [name])[0])
    where = "this notebook" if "get_ipython" in getattr(what, "__globals__", {}) else "this program"
    with tempfile.TemporaryDirectory(prefix="cs336-notebook-") as folder, Server() as server:
        path = Path(folder, asked.file_name)
        path.write_text(as_file(what, asked), encoding="utf-8")
        return check_file(asked, path, server, name=f"the function {name} of {where}")


def as_file(function: Callable[..., Any], exercise: Exercise) -> str:
    """Write a file that defines a function and all that it uses of the notebook.

    Modules and names of installed packages are imported, functions and classes of the notebook copied, plain
    constants written out. The other functions of the exercise come along where the notebook has them.

    Raises:
        ConfigError: the source can't be had.
    """
    if not isinstance(function, FunctionType):
        raise ConfigError("this is no plain function", "give the function itself, as its cell defines it")
    parts: dict[str, str] = {}
    _collect(function.__name__, function, parts, function.__globals__)
    for name in exercise.functions:
        if name not in parts and isinstance(function.__globals__.get(name), FunctionType):
            _collect(name, function.__globals__[name], parts, function.__globals__)
    return "from __future__ import annotations\n\n" + "\n".join(parts.values()) + "\n"


def _collect(name: str, value: Any, parts: dict[str, str], own: dict[str, Any]) -> None:
    """Add the definition of a global name, after those that it needs."""
    if name in parts:
        return
    if isinstance(value, ModuleType):
        parts[name] = f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    elif isinstance(value, _PLAIN):
        parts[name] = f"{name} = {value!r}"
    elif isinstance(value, (FunctionType, type)) and _is_own(value):
        parts[name] = ""  # holds its place, so that recursion ends
        for used, global_value in _used_globals(value):
            _collect(used, global_value, parts, own)
        del parts[name]  # back after the names that it uses
        try:
            parts[name] = textwrap.dedent(inspect.getsource(value))
        except (OSError, TypeError) as error:
            remedy = "define it in a cell, or write it into the exercise's file and check that"
            raise ConfigError(f"the source of {name} can't be had", remedy) from error
    elif callable(value):
        # The most public module and name that hold it.
        homes = [
            (any(part.startswith("_") for part in module_name.split(".")), len(module_name), module_name, known_as)
            for module_name, module in list(sys.modules.items())
            for known_as in {name, getattr(value, "__name__", name)}
            if isinstance(module, ModuleType) and vars(module) is not own and vars(module).get(known_as) is value
        ]
        if homes:
            _, _, module_name, known_as = min(homes)
            parts[name] = f"from {module_name} import {known_as} as {name}"


def _is_own(value: Any) -> bool:
    """Return whether the notebook or script defines it, not Python or a package."""
    top = (value.__module__ or "").partition(".")[0]
    if top == "__main__" or top in sys.stdlib_module_names:
        return top == "__main__"
    return "site-packages" not in (inspect.getsourcefile(value) or "site-packages")


def _used_globals(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function, or a class's methods, name."""
    for function in [value] if isinstance(value, FunctionType) else vars(value).values():
        codes = [function.__code__] if isinstance(function, FunctionType) else []
        while codes:
            code = codes.pop()
            codes += [constant for constant in code.co_consts if isinstance(constant, type(code))]
            yield from ((n, function.__globals__[n]) for n in code.co_names if n in function.__globals__)
