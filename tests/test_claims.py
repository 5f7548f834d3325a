"""The table of the notes' claims: short rows, whose lessons have the sections that they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = [row for row in (DOCS / "claims.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", row)]
LINK = re.compile(r"\[\d\d\]\((?P<file>\S+)\)(?:, (?P<sections>[\d, and]+))?")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split()[1])
def test_a_claim_is_short_and_its_lesson_has_the_sections(row) -> None:
    assert len(row.replace("|", " ").split()) <= 60
    link = LINK.search(row.rsplit("|", 2)[1])
    cells = json.loads((DOCS / link["file"]).read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for section in re.findall(r"\d+", link["sections"] or ""):
        assert f"\n## {section} · " in "\n" + prose
