"""Which wrong answers the checks catch: runs tests/mistakes and writes docs/KILL_MATRIX.md.

python tools/kill_matrix.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cs336_sft.exercises.checker import check_file  # noqa: E402
from cs336_sft.exercises.registry import EXERCISES, Exercise  # noqa: E402
from cs336_sft.exercises.sandbox.runner import Server  # noqa: E402

MISTAKES = ROOT / "tests" / "mistakes"
PAGE = ROOT / "docs" / "KILL_MATRIX.md"
INTRODUCTION = """# The kill matrix: which wrong answers the checks catch

Every file of `tests/mistakes/` is a plausible wrong implementation and names the message that the check must give.
"caught" means rejected *with that message*, not just rejected. `python tools/kill_matrix.py` writes this page, and a
test fails when it is out of date.

Mutation testing of the solutions ([MUTATION.md](MUTATION.md)): {score}
"""


@dataclass(frozen=True)
class Row:
    """One mistake and what became of it."""

    exercise: str
    mistake: str
    slip: str
    expected: str
    status: str
    seen: str

    @property
    def caught(self) -> bool:
        return self.status in ("wrong", "crashed") and self.expected in self.seen


def mistakes_of(exercise: Exercise) -> list[Path]:
    """The files with mistakes of one exercise."""
    return sorted((MISTAKES / exercise.number).glob("*.py"))


def expected_message(file: Path) -> str:
    """What the file's docstring says that the check must say."""
    return re.search(r"Expected message: (.+)", file.read_text(encoding="utf-8")).group(1)


def run_matrix(server: Server) -> list[Row]:
    """Check every mistake."""
    rows = []
    for exercise in EXERCISES:
        for file in mistakes_of(exercise):
            report = check_file(exercise, file, server)
            slip = re.search(r"Slip: (.+)\.", file.read_text(encoding="utf-8")).group(1)
            seen = " ".join(report.failure.message.split()) if report.failure else ""
            rows.append(Row(exercise.number, file.stem, slip, expected_message(file), report.status, seen))
    return rows


def render(rows: Sequence[Row]) -> str:
    """The part of the page that depends on the rows."""
    lines = ["<!-- matrix -->", "", "| exercise | caught | of |", "|---|---|---|"]
    for exercise in EXERCISES:
        own = [row for row in rows if row.exercise == exercise.number]
        lines.append(f"| {exercise.title} | {sum(row.caught for row in own)} | {len(own)} |")
    lines.append(f"| **all** | **{sum(row.caught for row in rows)}** | **{len(rows)}** |")
    for exercise in EXERCISES:
        lines += ["", f"## {exercise.title}", "", "| mistake | slip | verdict | message |", "|---|---|---|---|"]
        for row in rows:
            if row.exercise == exercise.number:
                message = row.seen.replace("|", "\\|").replace("<", "&lt;")
                lines.append(f"| `{row.mistake}` | {row.slip} | {row.status if row.caught else 'MISSED'} | {message} |")
    return "\n".join(lines) + "\n"


def introduction() -> str:
    """What stands above the table, with the mutation score as its own page has it."""
    page = (ROOT / "docs" / "MUTATION.md").read_text(encoding="utf-8")
    return INTRODUCTION.format(
        score=re.search(r"^\d+ of \d+ mutants are killed.*explained", page, re.M).group() + " there."
    )


def main() -> int:
    with Server() as server:
        rows = run_matrix(server)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(f"{introduction()}\n{render(rows)}", encoding="utf-8")
    print(f"{sum(row.caught for row in rows)} of {len(rows)} mistakes are caught with their own message")
    return 0 if all(row.caught for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
