"""Two processes on the CPU against one: runs the worker of the tests, writes docs/SEVERAL_PROCESSES.md.

python tools/process_table.py   # about three minutes
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from test_several_processes import CONFIG, MODES, launch  # noqa: E402

from cs336_sft.evaluation import read_generations  # noqa: E402
from cs336_sft.gsm8k import write_problems  # noqa: E402
from cs336_sft.models import embedded_model_path, load_model_and_tokenizer  # noqa: E402
from cs336_sft.profiles import get_profile  # noqa: E402
from cs336_sft.prompts import get_template  # noqa: E402
from cs336_sft.tokenization import make_examples  # noqa: E402
from cs336_sft.training_result import load_result  # noqa: E402

PAGE = ROOT / "docs" / "SEVERAL_PROCESSES.md"
EI = "--rounds 2 --questions 8 --rollouts 4 --eval-size 8 --sft-size 16 --limit 100 --judge lenient --add-format"


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(text, 120)


def prepare(folder: Path) -> None:
    """The embedded model, 33 examples of its training problems, and five to evaluate."""
    model, tokenizer = load_model_and_tokenizer(embedded_model_path())
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    profile = get_profile("tiny")
    examples = make_examples(profile.problems("train", 33), get_template("gsm8k"), tokenizer)
    (folder / "examples.json").write_text(json.dumps([[e.prompt_ids, e.response_ids] for e in examples]))
    (folder / "config.json").write_text(json.dumps({**CONFIG.to_dict(), "learning_rate": 1e-4}))
    write_problems(folder / "problems.jsonl", profile.problems("validation", 5))


def training_rows(folder: Path, dtype: str) -> list[str]:
    """One row for each way to run in two processes."""
    for mode in MODES:
        done = launch(folder, f"{mode}-{dtype}", mode, DTYPE=dtype)
        if done.returncode:
            raise SystemExit(done.stderr)
    one = load_result(folder / f"one-{dtype}")
    gradients = load_file(folder / f"one-{dtype}.gradients.safetensors")["gradients"]
    rows = []
    for mode in ("ddp", "fsdp2"):
        two = load_result(folder / f"{mode}-{dtype}")
        pairs = list(zip(one.metrics, two.metrics, strict=True))
        loss = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs)
        norm = max(abs(a["grad_norm"] - b["grad_norm"]) / a["grad_norm"] for a, b in pairs)
        others = load_file(folder / f"{mode}-{dtype}.gradients.safetensors")["gradients"]
        gradient = ((gradients - others).norm(dim=1) / gradients.norm(dim=1)).max().item()
        samples = [
            [read_generations(folder / f"{m}-{dtype}" / f"generations/step-{step:06d}.jsonl") for m in ("one", mode)]
            for step in (0, 10, 20)
        ]
        same = sum(a == b for mine, theirs in samples for a, b in zip(mine, theirs, strict=True))
        total = sum(len(mine) for mine, _ in samples)
        rows.append(f"| {mode.upper()}, {dtype} | {loss:.1e} | {norm:.1e} | {gradient:.1e} | {same} of {total} |")
    return rows


def expert_iteration_rows(folder: Path) -> list[str]:
    """Two rounds of expert iteration: are the kept samples those of one process?"""
    kept = {}
    for mode, (number, asked) in MODES.items():
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), "-m", "cs336_sft"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *command, "ei", "--out", str(folder / f"ei-{mode}"), *EI.split()],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment | asked,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        kept[mode] = [
            [
                {name: value for name, value in json.loads(line).items() if name != "policy"}
                for line in (folder / f"ei-{mode}/ei/round-{number:02d}/selected.jsonl").read_text().splitlines()
            ]
            for number in (1, 2)
        ]
    counts = " + ".join(str(len(rows)) for rows in kept["one"])
    return [
        f"| {mode.upper()} | {counts} | {'the same' if kept[mode] == kept['one'] else 'OTHERS'} |"
        for mode in ("ddp", "fsdp2")
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        prepare(folder)
        rows = training_rows(folder, "float64") + training_rows(folder, "float32")
        killed = launch(folder, "killed", "ddp", KILL="0:9").returncode
        resumed = launch(folder, "killed", "one").returncode
        pairs = zip(load_result(folder / "one-float32").metrics, load_result(folder / "killed").metrics, strict=True)
        loss = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs)
        lines = [
            "# Two processes against one",
            "",
            wrapped(
                f"Embedded model, {CONFIG.max_steps} steps of {CONFIG.batch_size} examples in microbatches of "
                f"{CONFIG.micro_batch_size}, on two CPU processes (gloo) and on one. The largest difference over all "
                "steps, relative to the value; of the gradients the norm of the difference, all weights together. "
                f"Written by `python tools/process_table.py` with torch {torch.__version__.split('+')[0]} on "
                f"{platform.machine()}. float64 shows that the two compute the same; float32 adds its rounding, which "
                "every step's AdamW carries on. CI demands 1e-5 of a smaller model in float32."
            ),
            "How to launch it: [recipes/accelerate](../recipes/accelerate/README.md).",
            "",
            "| two processes | loss | gradient norm | gradients | same samples in three evaluations |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Each process generates answers to its share of the problems; the main process alone writes files.",
            "",
            "## Killed in two, finished in one",
            "",
            wrapped(
                "kill -9 of the main process after step 9 of a DDP run: the launcher ends with status "
                f"{killed}. The same run, continued in one process from the checkpoint of step 6: status {resumed}, "
                f"largest relative difference of a loss to the undisturbed run {loss:.1e}. "
                "The tests also go from FSDP2 to DDP and from one process to FSDP2."
            ),
            "",
            "## Expert iteration",
            "",
            f"`cs336-sft ei {EI}`: samples that are kept for training, by question, number and token.",
            "",
            "| two processes | kept in rounds 1 + 2 | against one process |",
            "|---|---|---|",
            *expert_iteration_rows(folder),
        ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
