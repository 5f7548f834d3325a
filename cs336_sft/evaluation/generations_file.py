"""Write graded generations as JSON Lines, and read them back.

Log-probabilities and entropies are stored as their means. `cs336-sft grade FILE --response text --truth final` grades
such a file again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from cs336_sft.errors import DataError
from cs336_sft.records import Generation, Graded, Problem
from cs336_sft.utils.files import JSONDict, read_jsonl, write_jsonl

_OF_PROBLEM = ("id", "template", "question", "answer", "final")
_OF_GENERATION = ("prompt", "sample", "text", "finish_reason", "stop_reason")
_REWARDS = ("format_reward", "answer_reward", "reward", "lenient")
_FIELDS = {
    **dict.fromkeys((*_OF_PROBLEM, "prompt", "text", "finish_reason"), str),
    "sample": int,
    "token_ids": list,
    "stop_reason": (str, type(None)),
    **dict.fromkeys(_REWARDS, (int, float)),
}


def write_generations(path: str | Path, graded: Iterable[Graded]) -> None:
    """Write graded generations in one atomic step."""
    write_jsonl(path, (_row(g.problem, g.generation) | {name: getattr(g, name) for name in _REWARDS} for g in graded))


def read_generations(path: str | Path) -> tuple[Graded, ...]:
    """Read what `write_generations` wrote, or raise DataError."""
    found = []
    for where, row in read_jsonl(path, remedy="give the JSONL file that an evaluation wrote"):
        if complaint := _complaint(row):
            raise DataError(f"{where}: {complaint}", "write the file again, or remove the line")
        problem = Problem(**{name: row[name] for name in _OF_PROBLEM})
        generation = Generation(token_ids=tuple(row["token_ids"]), **{name: row[name] for name in _OF_GENERATION})
        found.append(Graded(problem, generation, **{name: float(row[name]) for name in _REWARDS}))
    return tuple(found)


def write_ungraded(path: str | Path, pairs: Iterable[tuple[Problem, Generation]]) -> None:
    """Write generations without rewards."""
    write_jsonl(path, (_row(problem, generation) for problem, generation in pairs))


def _row(problem: Problem, generation: Generation) -> JSONDict:
    row = {name: getattr(problem, name) for name in _OF_PROBLEM}
    row |= {name: getattr(generation, name) for name in _OF_GENERATION}
    return row | {
        "token_ids": list(generation.token_ids),
        "mean_logprob": fmean(generation.logprobs) if generation.logprobs else None,
        "mean_entropy": fmean(generation.entropies) if generation.entropies else None,
    }


def _complaint(row: JSONDict) -> str | None:
    for name, kind in _FIELDS.items():
        if name not in row:
            return f"no field {name!r}"
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            return f"field {name!r} is {row[name]!r}"
    if row["finish_reason"] not in ("stop", "length"):
        return f"field 'finish_reason' is {row['finish_reason']!r}, not 'stop' or 'length'"
    if not all(type(token) is int for token in row["token_ids"]):
        return "field 'token_ids' holds something that is not a whole number"
    return None
