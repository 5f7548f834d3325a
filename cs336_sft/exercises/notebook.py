"""Checking a function that a notebook's cell defines: its source, and what it uses, become a file."""

from __future__ import annotations

import inspect
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.exercises.registry import Exercise
from cs336_sft.exercises.report import Report
from cs336_sft.exercises.sandbox.runner import Server

_PLAIN = (bool, int, float, str, type(None))


def check_function(function: Callable[..., Any], exercise: Exercise) -> Report:
    """Check a function as it stands in the notebook."""
    from cs336_sft.exercises.checker import check_file

    with tempfile.TemporaryDirectory(prefix="cs336-notebook-") as folder, Server() as server:
        file = Path(folder, exercise.file_name)
        file.write_text(as_file(function, exercise), encoding="utf-8")
        return check_file(exercise, file, server, name=f"the function {function.__name__} of this notebook")


def as_file(function: Callable[..., Any], exercise: Exercise) -> str:
    """The text of a file that defines the function and everything of the notebook that it uses.

    Modules and names of installed packages are imported, functions and classes of the notebook copied, plain
    constants written out. The other functions of the exercise come along where the notebook has them.

    Raises:
        ConfigError: the source can't be had.

    >>> from cs336_sft.exercises.registry import find_exercise
    >>> import functools
    >>> as_file(functools.partial(print), find_exercise("ex03"))
    Traceback (most recent call last):
    ...
    cs336_sft.errors.ConfigError: this is no plain function. Remedy: give the function itself, as its cell defines it.
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
        parts[name] = ""
        try:
            source = textwrap.dedent(inspect.getsource(value))
        except (OSError, TypeError) as error:
            remedy = "define it in a cell, or write it into the exercise's file and check that"
            raise ConfigError(f"the source of {name} can't be had", remedy) from error
        del parts[name]
        parts[name] = source
    elif callable(value) and (home := _home(name, value, own)) is not None:
        parts[name] = f"from {home[0]} import {home[1]} as {name}"


def _home(name: str, value: Any, own: dict[str, Any]) -> tuple[str, str] | None:
    """A loaded module (not the notebook's own) and the name under which it has the value; the most public one."""
    names = {name, getattr(value, "__name__", name)}
    found = [
        (any(part.startswith("_") for part in module_name.split(".")), len(module_name), module_name, known_as)
        for module_name, module in list(sys.modules.items())
        for known_as in names
        if isinstance(module, ModuleType) and vars(module) is not own and vars(module).get(known_as) is value
    ]
    return min(found)[2:] if found else None


def _is_own(value: Any) -> bool:
    """Defined by the notebook (or script), not by an installed package."""
    return value.__module__ == "__main__" or "site-packages" not in (inspect.getsourcefile(value) or "site-packages")


def _used_globals(value: Any) -> list[tuple[str, Any]]:
    functions = (
        [value] if isinstance(value, FunctionType) else [f for f in vars(value).values() if isinstance(f, FunctionType)]
    )
    used = []
    for function in functions:
        codes = [function.__code__]
        while codes:
            code = codes.pop()
            codes += [constant for constant in code.co_consts if isinstance(constant, type(code))]
            used += [(n, function.__globals__[n]) for n in code.co_names if n in function.__globals__]
    return used
