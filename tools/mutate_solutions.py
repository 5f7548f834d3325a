"""Mutation testing of the solutions: cosmic-ray makes small changes, the checks have to notice each.

python tools/mutate_solutions.py            # writes docs/MUTATION.md
python tools/mutate_solutions.py ex03 ex04  # only these, prints the survivors

Needs the extra ``mutation``. A mutant that survives is either a gap in a check or no mistake at all: the reasons for
the latter stand in ``tests/data/surviving_mutants.json``, by exercise and changed line.
"""

from __future__ import annotations

import ast
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cs336_sft.exercises.checker import check_file  # noqa: E402
from cs336_sft.exercises.registry import EXERCISES, Exercise  # noqa: E402
from cs336_sft.exercises.sandbox.runner import Limits, Server  # noqa: E402

PAGE = ROOT / "docs" / "MUTATION.md"
REASONS = ROOT / "tests" / "data" / "surviving_mutants.json"


@dataclass(frozen=True)
class Mutant:
    """One changed solution: the line as it was, the line as it is, and the check's verdict."""

    exercise: str
    operator: str
    before: str
    after: str
    status: str

    @property
    def key(self) -> str:
        return f"{self.before} -> {self.after}"


def mutants_of(text: str) -> Iterator[tuple[str, str]]:
    """(operator, changed text) of every mutant whose code differs, each once."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    seen = {ast.dump(ast.parse(text))}
    for name in sorted(plugins.operator_names()):
        operator_class = plugins.get_operator(name)
        if operator_class.arguments():  # such as names of variables: nothing to choose them by
            continue
        occurrence = 0
        while (mutated := mutate_code(text, operator_class(), occurrence)) is not None:
            occurrence += 1
            try:
                code = ast.dump(ast.parse(mutated))
            except SyntaxError:
                continue
            if code not in seen:
                seen.add(code)
                yield name, mutated


def run(exercises: Sequence[Exercise]) -> list[Mutant]:
    """Check every mutant."""
    found = []
    with tempfile.TemporaryDirectory() as folder, Server(Limits(seconds=8)) as server:
        for exercise in exercises:
            text = (ROOT / "solutions" / exercise.file_name).read_text(encoding="utf-8")
            file = Path(folder, exercise.file_name)
            for operator, mutated in mutants_of(text):
                if _annotation_only(text, mutated):
                    continue
                file.write_text(mutated, encoding="utf-8")
                report = check_file(exercise, file, server)
                before, after = _changed(text, mutated)
                found.append(Mutant(exercise.number, operator, before, after, report.status))
    return found


def _annotation_only(a: str, b: str) -> bool:
    """Type hints are not run (``from __future__ import annotations``)."""

    def bare(text: str) -> str:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.returns = None
            if isinstance(node, ast.arg):
                node.annotation = None
        return ast.dump(tree)

    return bare(a) == bare(b)


def _changed(a: str, b: str) -> tuple[str, str]:
    for before, after in zip(a.splitlines(), b.splitlines(), strict=False):
        if before != after:
            return before.strip(), after.strip()
    return "(lines)", "(lines)"


def render(mutants: Sequence[Mutant], reasons: dict[str, dict[str, str]], seconds: float) -> str:
    """The page."""
    alive = [m for m in mutants if m.status == "passed"]
    explained = [m for m in alive if m.key in reasons.get(m.exercise, {})]
    killed = len(mutants) - len(alive)
    lines = [
        "# Mutation score of the solutions",
        "",
        "cosmic-ray changes the solutions one operator, number or condition at a time; the checks have to notice.",
        "`make soak` runs it; `python tools/mutate_solutions.py` writes this page.",
        "",
        f"{killed} of {len(mutants)} mutants are killed ({100 * killed / len(mutants):.1f} %), {len(alive)} survive, "
        f"{len(explained)} of these are explained below. Written in {seconds:.0f} s on two cores.",
        "",
        "| exercise | mutants | killed | survive | explained |",
        "|---|---|---|---|---|",
    ]
    for exercise in EXERCISES:
        own = [m for m in mutants if m.exercise == exercise.number]
        left = [m for m in own if m.status == "passed"]
        known = sum(m in explained for m in left)
        lines.append(f"| {exercise.title} | {len(own)} | {len(own) - len(left)} | {len(left)} | {known} |")
    lines += ["", "## Survivors", "", "| exercise | before | after | why it is no mistake |", "|---|---|---|---|"]
    for m in alive:
        why = reasons.get(m.exercise, {}).get(m.key, "NOT EXPLAINED")
        before, after = (f"`{part}`".replace("|", "\\|") for part in (m.before, m.after))
        lines.append(f"| {m.exercise} | {before} | {after} | {why} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    chosen = [exercise for exercise in EXERCISES if not argv or exercise.number in argv]
    reasons = json.loads(REASONS.read_text(encoding="utf-8")) if REASONS.is_file() else {}
    started = time.monotonic()
    mutants = run(chosen)
    unexplained = [m for m in mutants if m.status == "passed" and m.key not in reasons.get(m.exercise, {})]
    for m in unexplained:
        print(f"{m.exercise}: survives unexplained: {m.key}")
    if not argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(render(mutants, reasons, time.monotonic() - started), encoding="utf-8")
    print(f"{sum(m.status != 'passed' for m in mutants)} of {len(mutants)} mutants are killed")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
