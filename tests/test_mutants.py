"""Mutation testing of the library's core: every small change is noticed by a test, or has a reason why not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REASONS = json.loads((ROOT / "tests/data/surviving_core_mutants.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", REASONS)
def test_every_reason_is_of_a_line_that_is_still_there(module) -> None:
    lines = {line.strip() for line in (ROOT / f"cs336_sft/{module}.py").read_text(encoding="utf-8").splitlines()}
    starts = tuple(f"{line} -> " for line in lines)
    assert [key for key in REASONS[module] if not key.startswith(starts)] == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_mutant_of_the_core_survives_unexplained() -> None:
    pytest.importorskip("cosmic_ray", reason="needs the extra `mutation`")
    done = subprocess.run([sys.executable, ROOT / "tools/mutate_core.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
