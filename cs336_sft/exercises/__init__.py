"""Exercises whose checks know the mistakes people make.

``check("ex03")`` or ``check(my_function)`` in a notebook, ``cs336-sft check`` in a shell. ``registry`` lists the
exercises, ``checks`` says what each asks for, ``compare`` finds the first case that differs, ``sandbox`` runs the
learner's file in a process of its own. Begin with ``checker``, which is the whole way from a file to a report.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # Late, so that the command line's hints and help don't wait for PyTorch.
    if name == "check":
        from cs336_sft.exercises.notebook import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
