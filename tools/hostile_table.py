"""Files that try to pass without being right, or to take the machine with them, and what became of each.

python tools/hostile_table.py   # writes docs/HOSTILE_FILES.md
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cs336_sft.exercises.checker import check_file  # noqa: E402
from cs336_sft.exercises.report import Report  # noqa: E402
from cs336_sft.exercises.sandbox.runner import Server  # noqa: E402

PAGE = ROOT / "docs" / "HOSTILE_FILES.md"
INTRODUCTION = """# Hostile files: none is passed

Each is an exercise file for ex03 that tries to pass without being right, or to take the machine with it. "Next file" is
the verdict on a right file that the same process checks after it. `python tools/hostile_table.py` writes this page; the
files are in `tests/test_exercises_hostile.py`, where CI checks every one of them.

The limits protect against accidents, not against malice: run only code that you would run anyway.

| file | verdict | message | next file |
|---|---|---|---|
"""


def cases() -> ModuleType:
    """The test file that holds them."""
    path = ROOT / "tests" / "test_exercises_hostile.py"
    spec = spec_from_file_location("hostile_cases", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(name: str, report: Report, after: Report) -> str:
    """One line of the table."""
    message = report.failure.message if report.failure else "-"
    message = " ".join(message.split()).replace("|", "\\|").replace("<", "&lt;")
    return f"| {name} | {report.status} | {message} | {after.status} |"


def main() -> int:
    hostile = cases()
    rows, passed = [], 0
    with tempfile.TemporaryDirectory() as folder, Server(hostile.AMPLE) as server:
        for name, (text, words) in hostile.HOSTILE.items():
            file = Path(folder, hostile.EXERCISE.file_name)
            file.write_text(text, encoding="utf-8")
            server.limits = hostile.SHORT if words == "endless loop" else hostile.AMPLE
            report = check_file(hostile.EXERCISE, file, server)
            server.limits = hostile.AMPLE
            rows.append(row(name, report, check_file(hostile.EXERCISE, hostile.SOLUTION, server)))
            passed += report.passed
    PAGE.write_text(INTRODUCTION + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{passed} of {len(rows)} hostile files are passed")
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main())
