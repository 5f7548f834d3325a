"""Atomic writes, tolerant readers and replaced folders."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from cs336_sft.errors import ConfigError, DataError, RunDirectoryError
from cs336_sft.utils import files
from cs336_sft.utils.files import (
    JsonLines,
    atomic_write,
    parse_json,
    parse_jsonl,
    read_json,
    read_jsonl,
    replace_folder,
    write_csv,
    write_json,
    write_jsonl,
)

ROWS = [{"text": "a\u2028b"}, {"text": "é €"}]
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content,
        lambda content: BOM + content,
        lambda content: content.replace(b"\n", b"\r\n"),
        lambda content: content.rstrip(b"\n"),
        lambda content: content + b"\n\n",
        lambda content: BOM + b"\r\n" + content.replace(b"\n", b"\r\n \r\n"),
    ],
)
def test_lines_are_read_with_byte_order_mark_windows_ends_and_blank_lines(tmp_path, change) -> None:
    content = change("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode())
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert [row for _, row in read_jsonl(tmp_path / "rows.jsonl")] == ROWS
    assert [row for _, row in parse_jsonl(content.decode(), "stdin")] == ROWS


@pytest.mark.parametrize("content", [b'{"a": 1}\n{"a": 2}\n', BOM + b'{"a": 1}\r\n{"a": 2}\r\n{"a"'])
def test_a_log_is_read_with_byte_order_mark_and_windows_ends(tmp_path, content) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert JsonLines(tmp_path / "rows.jsonl").read() == [{"a": 1}, {"a": 2}]


def test_a_json_file_is_read_with_byte_order_mark_and_windows_ends(tmp_path) -> None:
    (tmp_path / "x.json").write_bytes(BOM + b'{\r\n"a": 1\r\n}\r\n')
    assert read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "line 3: not JSON (column 2: "),
        (b"[1]", "line 3: not a JSON object"),
        (b'"a"', "line 3: not a JSON object"),
        (b"[" * 200_000, "line 3: not JSON"),
        (b"9" * 5_000, "line 3: not JSON"),
        ('{"a": "é"}'.encode("latin-1"), "line 3: byte 8 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "line 3: byte 1 is not UTF-8"),
    ],
)
def test_a_bad_line_is_named_in_the_callers_error(tmp_path, line, complaint) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n\n' + line + b"\n")
    with pytest.raises(ConfigError) as error:
        list(read_jsonl(tmp_path / "rows.jsonl", ConfigError, "look at it"))
    assert f"rows.jsonl, {complaint}" in str(error.value)
    assert str(error.value).endswith(("Remedy: look at it.", "Remedy: save the file as UTF-8."))


def test_a_missing_file_is_an_error_with_the_callers_remedy(tmp_path) -> None:
    for read in (read_json, read_jsonl):
        with pytest.raises(DataError, match=r"none can't be read: No such file.*Remedy: look elsewhere"):
            read(tmp_path / "none", DataError, "look elsewhere")
    with pytest.raises(RunDirectoryError, match="can't be read: Is a directory"):
        read_json(tmp_path)


def test_half_of_a_surrogate_pair_is_written_as_valid_utf_8(tmp_path) -> None:
    rows = [{"text": "\ud83d € \U0001f600"}, {"text": "€"}]
    write_jsonl(tmp_path / "x.jsonl", rows)
    lines = (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows and "€" in lines[1]
    # Older files hold it as Python's "surrogatepass" writes it.
    assert parse_json('{"text": "\ud83d"}'.encode("utf-8", "surrogatepass"), "old") == {"text": "\ud83d"}


@pytest.mark.parametrize("write", [write_json, lambda path, value: write_jsonl(path, [value, value])])
def test_parent_folders_are_made_and_a_failed_write_changes_nothing(tmp_path, write) -> None:
    path = tmp_path / "new" / "folder" / "x.json"
    write(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write(path, {"a": float("nan")})
    assert path.read_bytes() == before and os.listdir(path.parent) == ["x.json"]


def test_a_writer_that_is_interrupted_changes_nothing(tmp_path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "x.json") as file:
        file.write("half")
        raise KeyboardInterrupt
    assert read_json(tmp_path / "x.json") == {"a": 1} and os.listdir(tmp_path) == ["x.json"]


def test_the_rest_of_a_killed_writer_is_removed_by_the_next_one(tmp_path) -> None:
    (tmp_path / ".x.json.999999.tmp").write_text("half")
    (tmp_path / ".y.json.999999.tmp").write_text("another file's")
    write_json(tmp_path / "x.json", {})
    assert sorted(os.listdir(tmp_path)) == [".y.json.999999.tmp", "x.json"]


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch) -> None:
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda number: (events.append("sync"), fsync(number)))
    monkeypatch.setattr(files.os, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    write_csv(tmp_path / "x.csv", [{"a": 1}])
    assert events == ["sync", "replace"]


def test_binary_files_can_be_written(tmp_path) -> None:
    with atomic_write(tmp_path / "x.gz", binary=True) as file, gzip.open(file, "wt", encoding="utf-8") as text:
        text.write("one\n")
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()) == b"one\n"


def test_a_path_that_can_not_be_written_names_itself(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", tmp_path):
        with pytest.raises(RunDirectoryError, match=r"could not be written .*Remedy: check the path"):
            write_json(path, {})


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path) -> None:
    path = tmp_path / "best"
    replace_folder(path, lambda folder: write_json(folder / "a.json", {"step": 1}))

    def half(folder):
        write_json(folder / "a.json", {"step": 2})
        raise OSError(28, "No space left on device")

    with pytest.raises(RunDirectoryError, match="best: could not be written"):
        replace_folder(path, half)
    assert read_json(path / "a.json") == {"step": 1} and os.listdir(tmp_path) == ["best"]
    replace_folder(path, lambda folder: write_json(folder / "b.json", {}))
    assert os.listdir(path) == ["b.json"] and os.listdir(tmp_path) == ["best"]


def test_a_crash_between_the_two_renames_loses_no_folder(tmp_path) -> None:
    path = tmp_path / "best"
    replace_folder(path, lambda folder: write_json(folder / "a.json", {"step": 1}))
    path.rename(tmp_path / "best.old.tmp")  # where the first rename leaves it
    with pytest.raises(KeyError):  # the next replacement fails as well
        replace_folder(path, lambda folder: {}["missing"])
    assert read_json(path / "a.json") == {"step": 1}
