"""What the course says to bad input: runs the table of tests/bad_inputs.py and writes docs/BAD_INPUT.md.

python tools/bad_input_table.py
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bad_inputs import COMMANDS, CONFIGS, READERS, Bad, make_files  # noqa: E402

from cs336_sft.cli import main as command  # noqa: E402
from cs336_sft.errors import CourseError  # noqa: E402

PAGE = ROOT / "docs" / "BAD_INPUT.md"
INTRODUCTION = """# Bad input and what is said to it

Every mistake in the input is told in one line: the file and line, or the field and its value, and the remedy. A command
then ends with exit status 2, nothing on stdout and nothing begun; a call raises a `CourseError`. A command line that
argparse itself refuses gets the usage before that line. Written by `python tools/bad_input_table.py` from
`tests/bad_inputs.py`, where the contents of the files stand; CI checks every row.
"""


def said(row: Bad, folder: Path) -> str:
    """The line that tells the mistake."""
    if row.call is not None:
        try:
            row.call(folder)
        except CourseError as error:
            return str(error)
        return "NOTHING"
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            command(shlex.split(row.given))
        except SystemExit:
            pass  # argparse: the message is on stderr
    return errors.getvalue().strip().splitlines()[-1]


def table(title: str, head: str, rows: Sequence[Bad], folder: Path) -> str:
    """One section of the page."""
    lines = [f"## {title} ({len(rows)})", "", f"| {head} | what is said |", "|---|---|"]
    for row in rows:
        text = said(row, folder).replace(str(folder) + os.sep, "")
        given = row.given or "(no command)"
        cells = (f"`{given}`", text.replace("<", "&lt;"))
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    sys.argv[0] = "cs336-sft"
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "400"}
    for name in ("CS336_PROFILE", "CS336_GSM8K"):
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path).resolve()
        make_files(folder)
        os.environ["CS336_DATA"] = str(folder / "fetched")
        os.chdir(folder)
        sections = [
            table("Command line", "`cs336-sft` ...", COMMANDS, folder),
            table("Readers", "call", READERS, folder),
            table("Configurations", "call", CONFIGS, folder),
        ]
        os.chdir(ROOT)
    count = len(COMMANDS) + len(READERS) + len(CONFIGS)
    PAGE.write_text("\n".join([INTRODUCTION, f"{count} bad inputs.\n", *sections]), encoding="utf-8")
    print(f"{count} bad inputs")


if __name__ == "__main__":
    main()
