"""Exercises whose checks know the mistakes people make.

``check("ex03")`` or ``check(my_function)`` in a notebook, ``cs336-sft check`` in a shell.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Late, so that the command line's hints and help don't wait for PyTorch.
    if name == "check":
        from cs336_sft.exercises.checker import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
