"""A learner's path through three exercises, as the commands show it: untouched, wrong twice, right.

python tools/learner_transcript.py   # writes docs/LEARNER_TRANSCRIPT.md
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cs336_sft.exercises.files import stub_text  # noqa: E402
from cs336_sft.exercises.registry import find_exercise  # noqa: E402

PAGE = ROOT / "docs" / "LEARNER_TRANSCRIPT.md"
PATHS = {
    "ex02": ("mask_not_shifted", "padding_supervised"),
    "ex04": ("never_divided", "mean_of_means"),
    "ex07": ("last_number", "stops_at_comma"),
}


def transcript() -> str:
    """The page."""
    lines = [
        "# A learner's path through three exercises",
        "",
        "Untouched, wrong twice, right. Written by `python tools/learner_transcript.py`; the wrong attempts are",
        "files of `tests/mistakes/`. In a terminal and in a notebook the same comes in colour.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "exercises").mkdir()
        for number, mistakes in PATHS.items():
            exercise = find_exercise(number)
            file = Path(folder, "exercises", exercise.file_name)
            wrong = [ROOT / "tests" / "mistakes" / number / f"{name}.py" for name in mistakes]
            attempts = [
                ("the stub", stub_text(exercise)),
                *((path.stem.replace("_", " "), path.read_text(encoding="utf-8")) for path in wrong),
                ("right", (ROOT / "solutions" / exercise.file_name).read_text(encoding="utf-8")),
            ]
            lines += ["", f"## {exercise.title}"]
            for name, text in attempts:
                file.write_text(text, encoding="utf-8")
                done = subprocess.run(
                    [sys.executable, "-m", "cs336_sft", "check", number],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                )
                shown = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
                lines += ["", f"### {name}", "", "```", f"$ cs336-sft check {number}", shown]
                lines += [f"$ echo $?\n{done.returncode}", "```"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(transcript(), encoding="utf-8")
