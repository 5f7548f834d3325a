"""Problems in GSM8K's form: one JSON object a line, with the fields ``question`` and ``answer``.

Reading is strict. A line that can't be used is an error that names file and line, because a problem that is skipped
in silence, or whose final answer is read wrongly, shifts every accuracy that is measured on the file afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.records import Problem

# "72", "1,080", "-3", "$4.50", "-$4.50", "$-4.50", ".5": thousands in groups of three, or without separators.
_NUMBER = re.compile(r"(-?)\$?(-?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SPLITS = ("train", "test")


def final_answer(answer: str) -> str | None:
    """The number on the last line ``#### N`` of a reference answer, as a plain decimal string.

    Thousands separators and a dollar sign are dropped, the digits are kept as they stand. None if the last line is
    not of that form.

    >>> final_answer("540+540 = <<540+540=1080>>1080\\n#### 1,080")
    '1080'
    >>> final_answer("#### -$2.50"), final_answer("#### .5")
    ('-2.50', '0.5')
    >>> final_answer("The answer is 5") is final_answer("#### five") is final_answer("#### 10,80") is None
    True
    """
    last_line = answer.rstrip().rsplit("\n", 1)[-1].strip()
    if not last_line.startswith("####"):
        return None
    match = _NUMBER.fullmatch(last_line[4:].strip())
    if match is None:
        return None
    before_dollar, after_dollar, whole, fraction = match.groups(default="")
    if not whole + fraction or (before_dollar and after_dollar):
        return None
    return f"{before_dollar}{after_dollar}{whole.replace(',', '') or '0'}{fraction}"


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """The problems of a JSONL file in UTF-8, in its order.

    A byte-order mark, CRLF line ends and blank lines are tolerated. Fields ``id`` and ``template`` are read where
    they are (``write_problems`` writes them); without an id a problem is called ``gsm8k/<file stem>/<index from 0>``.

    Raises:
        DataError: the file is not there or holds no problem, or a line is not UTF-8, not JSON, or not a problem:
            a field that is missing, empty or not a string, or an answer whose last line is not ``#### N``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "train.jsonl"
    ...     _ = path.write_text(json.dumps({"question": "540 twice?", "answer": "#### 1,080"}))
    ...     read_problems(path)
    [Problem(question='540 twice?', answer='#### 1,080', final='1080', id='gsm8k/train/0', template='')]
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"{path} can't be read: {reason}", "give the path of a JSONL file") from error
    problems: list[Problem] = []
    # Split as bytes: a line in another encoding can then be named, and U+2028 inside a string ends no line.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            record = _parse(line, f"{path}, line {number}")
            problems.append(_problem(record, f"{path}, line {number}", f"gsm8k/{path.stem}/{len(problems)}"))
    if not problems:
        raise DataError(
            f"{path} holds no problem", "give a JSONL file with fields 'question' and 'answer' in each line"
        )
    return problems


def load_gsm8k(source: str | os.PathLike[str], split: str) -> list[Problem]:
    """GSM8K, from wherever it is.

    Args:
        source: a folder with ``train.jsonl`` and ``test.jsonl``; or one such file; or a data set's name on the
            Hugging Face hub (``"openai/gsm8k"``), which needs the extra ``hub`` and a connection or a filled cache.
        split: ``"train"`` or ``"test"``.

    Raises:
        ConfigError: another split; a file that is named for the other split (training on the test set is worth an
            error); a hub name without the package ``datasets``.
        DataError: nothing is there, the hub can't be reached, or a problem is unusable (see ``read_problems``).

    >>> load_gsm8k("no/such/folder", "train")
    Traceback (most recent call last):
    ...
    cs336_sft.errors.DataError: no/such/folder does not exist. Remedy: give a folder with train.jsonl and test.jsonl, \
a JSONL file, or a hub name such as openai/gsm8k.
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
    raise DataError(
        f"{source} does not exist",
        "give a folder with train.jsonl and test.jsonl, a JSONL file, or a hub name such as openai/gsm8k",
    )


def write_problems(path: str | os.PathLike[str], problems: Sequence[Problem]) -> None:
    """Write problems as JSONL that ``read_problems``, and any reader of GSM8K, can read.

    Each line has ``question`` and ``answer``, and ``id`` and ``template`` where they are set, so that
    ``read_problems`` gives back equal records. The file appears whole or not at all; its folder is made if need be.

    Raises:
        DataError: a problem that could not be read back: empty, or its answer does not end in ``#### <final>``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_problems(Path(folder) / "two.jsonl", [Problem("1 + 1?", "#### 2", "2", id="a/0")])
    ...     print((Path(folder) / "two.jsonl").read_text(), end="")
    {"question": "1 + 1?", "answer": "#### 2", "id": "a/0"}
    """
    path = Path(path)
    lines = []
    for index, problem in enumerate(problems):
        record = {"question": problem.question, "answer": problem.answer}
        record |= {name: getattr(problem, name) for name in ("id", "template") if getattr(problem, name)}
        where = f"problem {index} for {path}"
        read_back = _problem(record, where, "")
        if read_back.final != problem.final:
            raise DataError(
                f"{where}: its final answer is {problem.final!r}, but its answer ends in {read_back.final!r}",
                "make the two equal",
            )
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder, so that the rename is atomic
    try:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hold_out(problems: Sequence[Problem], n: int = 512, seed: int = 0) -> tuple[list[Problem], list[Problem]]:
    """Hold ``n`` problems out for validation: ``(train, validation)``, each in the order they came in.

    The ``n`` with the smallest hash of seed and question are held out. So the choice depends on neither the order of
    the file nor the version of a random generator, and the same question asked twice can hardly stand on both sides.
    Of GSM8K's 7,473 training problems 512 leave 6,961.

    Raises:
        ConfigError: ``n`` is negative or leaves nothing to train on.

    >>> numbers = [Problem(f"{i}?", f"#### {i}", str(i)) for i in range(6)]
    >>> train, validation = hold_out(numbers, n=2, seed=0)
    >>> [problem.final for problem in train], [problem.final for problem in validation]
    (['0', '1', '3', '4'], ['2', '5'])
    """
    if not 0 <= n < len(problems):
        raise ConfigError(
            f"{n} of {len(problems)} problems can't be held out", f"hold out 0 to {max(len(problems) - 1, 0)}"
        )

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{seed}\n{problems[index].question}".encode()).digest()

    held_out = set(sorted(range(len(problems)), key=key)[:n])
    train = [problem for index, problem in enumerate(problems) if index not in held_out]
    return train, [problem for index, problem in enumerate(problems) if index in held_out]


def _parse(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start + 1} is not UTF-8", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = f"column {error.colno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{where} is not JSON ({reason})", "put one JSON object in each line, or remove it") from error


def _problem(record: Any, where: str, default_id: str) -> Problem:
    """A ``Problem`` from a decoded line. ``where`` begins the error messages."""
    if not isinstance(record, dict):
        raise DataError(f"{where} is not an object", "give an object with the fields 'question' and 'answer'")
    for name in ("question", "answer"):
        if name not in record:
            raise DataError(f"{where}: no field {name!r}", "add the field or remove the line")
    fields = {"id": default_id, "template": ""} | record
    for name in ("question", "answer", "id", "template"):
        value = fields[name]
        if not isinstance(value, str):
            raise DataError(f"{where}: field {name!r} is {type(value).__name__}, not a string", "put it in quotes")
        if name in ("question", "answer") and not value.strip():
            raise DataError(f"{where}: field {name!r} is empty", "fill it or remove the line")
        if not _is_unicode(value):
            raise DataError(f"{where}: field {name!r} has half of a surrogate pair", "write the character itself")
    final = final_answer(fields["answer"])
    if final is None:
        last_line = fields["answer"].rstrip().rsplit("\n", 1)[-1]
        raise DataError(
            f"{where}: the last line of 'answer' is {last_line[-60:]!r}, not '#### N' with a number N",
            "end the answer with such a line, for example '#### 1,080'",
        )
    return Problem(fields["question"], fields["answer"], final, fields["id"], fields["template"])


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded; JSON's ``"\\ud83d"`` alone gives a string that no tokenizer takes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _load_from_hub(name: str, split: str) -> list[Problem]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ConfigError(
            f"{name} is no file or folder here, and reading it from the hub needs the package datasets",
            "pip install 'cs336-sft[hub]', or give a folder with train.jsonl and test.jsonl",
        ) from error
    try:
        rows = list(load_dataset(name, "main", split=split))
    except Exception as error:  # datasets, huggingface_hub and the HTTP client each have their own families
        raise DataError(
            f"{name} ({split}) could not be loaded from the hub: {type(error).__name__}: {error}",
            "check the name and the connection, or give a folder with train.jsonl and test.jsonl",
        ) from error
    return [_problem(row, f"{name} ({split}), row {i}", f"gsm8k/{split}/{i}") for i, row in enumerate(rows)]
