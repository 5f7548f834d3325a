"""Problems in GSM8K's form: one JSON object a line, with the fields ``question`` and ``answer``.

A line that can't be used is an error: a problem that is skipped silently shifts every accuracy measured afterwards.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.records import Problem
from cs336_sft.utils.files import read_jsonl, write_jsonl

# "72", "1,080", "-3", "$4.50", "-$4.50", "$-4.50", ".5": thousands in groups of three, or without separators.
_NUMBER = re.compile(r"(-?)\$?(-?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SPLITS = ("train", "test")
_SOURCES = "give a folder with train.jsonl and test.jsonl, a JSONL file, or a hub name such as openai/gsm8k"


def final_answer(answer: str) -> str | None:
    """Return the number on the last line ``#### N`` as a plain decimal string.

    Thousands separators and a dollar sign are dropped. None if the last line does not have that form.

    >>> final_answer("540+540 = 1080\\n#### 1,080"), final_answer("#### -$2.50"), final_answer("#### 10,80")
    ('1080', '-2.50', None)
    """
    last_line = answer.rstrip().rsplit("\n", 1)[-1].strip()
    match = _NUMBER.fullmatch(last_line[4:].strip()) if last_line.startswith("####") else None
    if match is None:
        return None
    before_dollar, after_dollar, whole, fraction = match.groups(default="")
    if not whole + fraction or (before_dollar and after_dollar):
        return None
    return f"{before_dollar}{after_dollar}{whole.replace(',', '') or '0'}{fraction}"


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Read the problems of a JSONL file, in its order.

    An ``id`` (text or a whole number) and a ``template`` are kept, fields other than these, ``question`` and ``answer``
    are not. Without an id a problem is called ``gsm8k/<file stem>/<index from 0>``.
    Raises DataError: no file, no problem in it, or a line that is no problem (see also `read_jsonl`).
    """
    path = Path(path)
    rows = enumerate(read_jsonl(path))
    problems = [_problem(record, where, f"gsm8k/{path.stem}/{index}") for index, (where, record) in rows]
    if not problems:
        raise DataError(
            f"{path} holds no problem", "give a JSONL file with fields 'question' and 'answer' in each line"
        )
    return problems


def load_gsm8k(source: str | os.PathLike[str], split: str) -> list[Problem]:
    """Load GSM8K's ``train`` or ``test`` split from a folder, a file or the hub.

    ``source`` is a folder with ``train.jsonl`` and ``test.jsonl``, one such file, or a data set's name on the Hugging
    Face hub (``"openai/gsm8k"``), which needs the extra ``hub`` and a connection or a filled cache.
    Raises ConfigError: another split, a file that is named for the other split, or no package ``datasets``.
    Raises DataError: nothing is there, the hub can't be reached, or a problem is unusable (see `read_problems`).
    """
    if split not in _SPLITS:
        raise ConfigError(f"GSM8K has no split {split!r}", "choose train or test; hold_out makes a validation set")
    path = Path(source).expanduser()
    if path.is_dir():
        return read_problems(path / f"{split}.jsonl")
    if path.exists():
        if path.stem in _SPLITS and path.stem != split:
            raise ConfigError(f"the split {split!r} was asked of {path}", "give the folder, or the other file")
        return read_problems(path)
    if isinstance(source, str) and _HUB_NAME.fullmatch(source) and not source.endswith((".jsonl", ".json")):
        return _load_from_hub(source, split)
    raise DataError(f"{source} does not exist", _SOURCES)


def write_problems(path: str | os.PathLike[str], problems: Sequence[Problem]) -> None:
    """Write problems as JSONL for ``read_problems`` and any reader of GSM8K.

    Raises DataError: a problem that could not be read back: empty, or its answer does not end in ``#### <final>``.
    """
    rows = []
    for index, problem in enumerate(problems):
        row = {"question": problem.question, "answer": problem.answer}
        row |= {name: getattr(problem, name) for name in ("id", "template") if getattr(problem, name)}
        where = f"problem {index} for {path}"
        final = _problem(row, where, "").final
        if final != problem.final:
            wrong = f"{where}: its final answer is {problem.final!r}, but its answer ends in {final!r}"
            raise DataError(wrong, "make the two equal")
        rows.append(row)
    write_jsonl(Path(path), rows)


def hold_out(problems: Sequence[Problem], n: int = 512, seed: int = 0) -> tuple[list[Problem], list[Problem]]:
    """Split problems into ``(train, validation)`` with ``n`` of them held out.

    Held out are the ``n`` with the smallest hash of seed and question: the choice depends on neither the order of the
    file nor a random generator's version. Each part keeps its order.
    Raises ConfigError: ``n`` is negative or leaves nothing to train on.
    """
    if not 0 <= n < len(problems):
        raise ConfigError(f"{n} of {len(problems)} problems can't be held out", f"hold out 0 to {len(problems) - 1}")

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{seed}\n{problems[index].question}".encode()).digest()

    held_out = set(sorted(range(len(problems)), key=key)[:n])
    train = [problem for index, problem in enumerate(problems) if index not in held_out]
    return train, [problem for index, problem in enumerate(problems) if index in held_out]


def _problem(record: dict[str, Any], where: str, default_id: str) -> Problem:
    """Make a ``Problem`` from a row, or raise a DataError that begins with ``where``."""
    for name in ("question", "answer"):
        if name not in record:
            raise DataError(f"{where}: no field {name!r}", "add the field or remove the line")
        value = record[name]
        if not isinstance(value, str):
            raise DataError(f"{where}: field {name!r} is {type(value).__name__}, not a string", "put it in quotes")
        if not value.strip():
            raise DataError(f"{where}: field {name!r} is empty", "fill it or remove the line")
        if not _is_unicode(value):
            raise DataError(f"{where}: field {name!r} has half of a surrogate pair", "write the character itself")
    final = final_answer(record["answer"])
    if final is None:
        last_line = record["answer"].rstrip().rsplit("\n", 1)[-1]
        raise DataError(
            f"{where}: the last line of 'answer' is {last_line[-60:]!r}, not '#### N' with a number N",
            "end the answer with such a line, for example '#### 1,080'",
        )
    # Other people's files have fields of these names with other types: those do not count.
    own_id, template = record.get("id"), record.get("template")
    if isinstance(own_id, int) and not isinstance(own_id, bool):
        own_id = str(own_id)
    return Problem(
        question=record["question"],
        answer=record["answer"],
        final=final,
        id=own_id if isinstance(own_id, str) and _is_unicode(own_id) else default_id,
        template=template if isinstance(template, str) and _is_unicode(template) else "",
    )


def _is_unicode(text: str) -> bool:
    """Return whether the text can be encoded."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _load_from_hub(name: str, split: str) -> list[Problem]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            f"{name} is no file or folder here, and reading it from the hub needs the package datasets",
            f"pip install 'cs336-sft[hub]', or {_SOURCES}",
        ) from error
    try:
        rows = list(load_dataset(name, "main", split=split))
    except Exception as error:  # datasets, huggingface_hub and the HTTP client each have their own families
        problem = f"{name} ({split}) could not be loaded from the hub: {type(error).__name__}: {error}"
        raise DataError(problem, f"check the name and the connection, or {_SOURCES}") from error
    return [_problem(row, f"{name} ({split}), row {i}", f"gsm8k/{split}/{i}") for i, row in enumerate(rows)]
