"""Mutation testing of the solutions: cosmic-ray makes small changes, the checks have to notice each.

python tools/mutate_solutions.py            # prints the survivors and the score
python tools/mutate_solutions.py ex03 ex04  # only these

Needs the extra ``mutation``. A mutant that survives is either a gap in a check or no mistake at all: the reasons for
the latter are in ``tests/data/surviving_mutants.json``, by exercise and changed line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cs336_sft.exercises.checker import check_file  # noqa: E402
from cs336_sft.exercises.registry import EXERCISES, Exercise  # noqa: E402
from cs336_sft.exercises.sandbox.runner import Limits, Server  # noqa: E402
from tools.mutants import changed_line, mutants_of  # noqa: E402

REASONS = ROOT / "tests" / "data" / "surviving_mutants.json"


@dataclass(frozen=True)
class Mutant:
    """One changed solution: the line as it was, the line as it is, and the check's result."""

    exercise: str
    operator: str
    before: str
    after: str
    status: str

    @property
    def key(self) -> str:
        return f"{self.before} -> {self.after}"


def run(exercises: Sequence[Exercise]) -> list[Mutant]:
    """Check every mutant."""
    found = []
    with tempfile.TemporaryDirectory() as folder, Server(Limits(seconds=8)) as server:
        for exercise in exercises:
            text = (ROOT / "solutions" / exercise.file_name).read_text(encoding="utf-8")
            file = Path(folder, exercise.file_name)
            for operator, mutated in mutants_of(text):
                file.write_text(mutated, encoding="utf-8")
                report = check_file(exercise, file, server)
                before, after = changed_line(text, mutated)
                found.append(Mutant(exercise.number, operator, before, after, report.status))
    return found


def main(argv: Sequence[str]) -> int:
    chosen = [exercise for exercise in EXERCISES if not argv or exercise.number in argv]
    reasons = json.loads(REASONS.read_text(encoding="utf-8")) if REASONS.is_file() else {}
    started = time.monotonic()
    mutants = run(chosen)
    alive = [m for m in mutants if m.status == "passed"]
    unexplained = [m for m in alive if m.key not in reasons.get(m.exercise, {})]
    for m in alive:
        print(f"{m.exercise}: survives: {m.key}: {reasons.get(m.exercise, {}).get(m.key, 'NOT EXPLAINED')}")
    killed = len(mutants) - len(alive)
    print(
        f"{killed} of {len(mutants)} mutants are killed ({100 * killed / len(mutants):.1f} %), {len(alive)} survive, "
        f"{len(unexplained)} of these without a reason; {time.monotonic() - started:.0f} s"
    )
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
