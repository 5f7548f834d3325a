"""The exercises: what each is called, asks for and hints at. Light to import; the checks are in ``checks``."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError

ASSETS = Path(__file__).resolve().parent.parent / "assets" / "exercises"


@lru_cache
def read_asset(name: str) -> dict[str, Any]:
    """Read one of the tables of texts and cases.

    >>> len(read_asset("hints")["ex03"])
    3
    """
    return tomllib.loads((ASSETS / f"{name}.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Exercise:
    """One exercise."""

    number: str  # "ex03"
    name: str  # "masked_normalize"; the file is ex03_masked_normalize.py
    topic: str
    functions: tuple[str, ...]  # what the learner writes
    difficulty: int  # 1 (a line or two) to 5
    minutes: int  # about how long it takes
    notebook: str  # teaches it

    @property
    def file_name(self) -> str:
        return f"{self.number}_{self.name}.py"

    @property
    def title(self) -> str:
        return f"{self.number} {self.name}"

    @property
    def hints(self) -> tuple[str, str, str]:
        """Return three hints: where to look, what to do, nearly the code."""
        return tuple(read_asset("hints")[self.number])


EXERCISES = tuple(
    Exercise(**row | {"functions": tuple(row["functions"])}) for row in read_asset("exercises")["exercise"]
)


def find_exercise(name: str) -> Exercise:
    """Find an exercise by number, name or file name, or raise ConfigError.

    >>> find_exercise("3") == find_exercise("ex3") == find_exercise("ex03_masked_normalize.py")
    True
    """
    asked = name.strip().lower().removesuffix(".py")
    if (number := asked.removeprefix("ex")).isdecimal():
        asked = f"ex{int(number):02}"
    for exercise in EXERCISES:
        if asked in (exercise.number, exercise.name, exercise.file_name.removesuffix(".py")):
            return exercise
    close = difflib.get_close_matches(asked, [e.number for e in EXERCISES] + [e.name for e in EXERCISES], n=1)
    remedy = f"did you mean {close[0]}" if close else f"give one of {EXERCISES[0].number} to {EXERCISES[-1].number}"
    raise ConfigError(f"no exercise is called {name!r}", remedy)
