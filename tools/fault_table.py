"""Faults that befall a run, what was said, and what was lost: runs tests/fault_scenarios.py, writes docs/FAULTS.md.

python tools/fault_table.py
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from fault_scenarios import CONFIG, SCENARIOS, Setup  # noqa: E402

from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer  # noqa: E402
from cs336_sft.prompts import get_template  # noqa: E402
from cs336_sft.records import Problem  # noqa: E402
from cs336_sft.tokenization import make_examples  # noqa: E402

PAGE = ROOT / "docs" / "FAULTS.md"
INTRODUCTION = f"""# Faults, and what they cost

Each row is a run of {CONFIG.max_steps} steps, with checkpoints at steps 3 and 6, that a fault befalls; then the same
call is made again. "Nothing lost" means: records, evaluations and final weights are, to the last bit, those of a run
that nothing disturbed. `python tools/fault_table.py` writes this page by running `tests/fault_scenarios.py`, as CI
does.

A process that is killed (kill -9) at any of five moments is in `tests/test_training.py`, one of two processes in
[SEVERAL_PROCESSES.md](SEVERAL_PROCESSES.md).

| fault | what was said | what was lost |
|---|---|---|
"""


def main() -> None:
    torch.set_num_threads(1)
    model, tokenizer = load_model_and_tokenizer(embedded_model_path())
    problems = [
        Problem(
            f"Tom has {a} boxes of {b} pencils. How many pencils does he have?", f"{a}*{b}\n#### {a * b}", str(a * b)
        )
        for a in range(2, 6)
        for b in (3, 7, 12)
    ]
    examples = make_examples(problems, get_template("question_only"), tokenizer)
    rows = []
    for name, (scenario, lost) in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as folder:
            said = scenario(Setup(model, tokenizer, examples, Path(folder)))
        said = re.sub(
            r"process \d+ on \S+, since [\dT:+-]+", "process 4711 on this machine", said.replace(folder, "runs")
        )
        said = " ".join(said.split()).replace("|", "\\|")
        rows.append(f"| {name} | {said or '-'} | {lost} |")
    PAGE.write_text(INTRODUCTION + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(rows)} faults")


if __name__ == "__main__":
    main()
