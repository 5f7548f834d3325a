"""``cs336-sft grade``: outsiders' generations, graded from a file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from cs336_sft.cli import main

ROWS = [
    {"output": "#### 18", "answer": "9 * 2\n#### 18", "id": 1},
    {"output": "#### 18 or 19", "answer": "18", "id": 2},
    {"output": "so \\boxed{18}", "answer": 18, "id": 3},
    {"output": "nothing", "answer": ["18", "19"], "id": 4},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "generations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n", encoding="utf-8")
    return path


def _run(file: Path, *options: str) -> int:
    return main(["grade", str(file), "--response", "output", "--truth", "answer", *options])


def test_json_summary(file: Path, capsys: pytest.CaptureFixture) -> None:
    assert _run(file, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["n"], summary["accuracy"], summary["format_accuracy"]) == (4, 0.25, 0.5)
    assert summary["accuracy_low"] < 0.25 < summary["accuracy_high"]
    assert sum(summary["why_no_reward"].values()) == 3


def test_detected_styles_and_the_output_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "new" / "graded.jsonl"
    assert _run(file, "--style", "detect", "--out", str(out), "--show", "1") == 0
    graded = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["reward"] for row in graded] == [1.0, 0.0, 1.0, 0.0]
    assert [row["style"] for row in graded][:3] == ["gsm8k", "gsm8k", "question_only"]
    assert [row["id"] for row in graded] == [1, 2, 3, 4]  # the other columns stay
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "18 or 19" in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"output": "x"}\n', "line 1: no column 'answer'"),
        ('{"output": "x", "answer": "18"}\n{"output": "x", "answer": "eighteen"}\n', "line 2: no number"),
        ('{"output": 5, "answer": "18"}\n', "line 1: column 'output' is int"),
        ("not json\n", "line 1: not JSON"),
        ("[1]\n", "line 1: not a JSON object"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
        ("\n", "no lines"),
    ],
)
def test_mistakes_are_told_in_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(content, encoding="utf-8")
    assert _run(path) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "Remedy:" in error and "\n" not in error


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_from_a_file_and_from_stdin(ends, tmp_path, capsys, monkeypatch):
    lines = [
        json.dumps(row, ensure_ascii=False).encode() for row in (*ROWS, {"output": "#### 18\u2028é", "answer": 18})
    ]
    content = b"\xef\xbb\xbf" + ends.join(lines) + ends * 2
    path = tmp_path / "windows.jsonl"
    path.write_bytes(content)
    assert _run(path, "--json") == 0
    from_file = json.loads(capsys.readouterr().out)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert _run(Path("-"), "--json") == 0
    assert json.loads(capsys.readouterr().out) == from_file
    assert (from_file["n"], from_file["accuracy"]) == (5, 0.4)


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _run(tmp_path / "none.jsonl") == 2
    assert "none.jsonl" in capsys.readouterr().err
