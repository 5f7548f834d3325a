"""Two processes on the CPU against one: runs the worker of the tests, writes docs/SEVERAL_PROCESSES.md.

python tools/process_table.py   # about three minutes
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from test_several_processes import CONFIG, kept, launch, run_in  # noqa: E402

from cs336_sft.data.gsm8k import write_problems  # noqa: E402
from cs336_sft.evaluation.evaluate import read_generations  # noqa: E402
from cs336_sft.experiments.profiles import get_profile  # noqa: E402
from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer  # noqa: E402
from cs336_sft.prompts import get_template  # noqa: E402
from cs336_sft.tokenization import make_examples  # noqa: E402
from cs336_sft.training.result import load_result  # noqa: E402

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
    """A row for each way to run in two processes; and for each other order of the same sums in one."""
    names = {"one": ("one", {}), "DDP": ("ddp", {}), "FSDP2": ("fsdp2", {})}
    names["one process, microbatches in reverse"] = ("one", {"ORDER": "reversed"})
    names["one process, microbatches of two"] = ("one", {"ORDER": "dealt"})
    rows = []
    for number, (name, (mode, variables)) in enumerate(names.items()):
        done = launch(folder, f"{number}-{dtype}", mode, DTYPE=dtype, **variables)
        if done.returncode:
            raise SystemExit(done.stderr)
        if number > 0:
            rows.append(f"| {name}, {dtype} | {compared(folder, f'0-{dtype}', f'{number}-{dtype}')} |")
    return rows


def compared(folder: Path, mine: str, theirs: str) -> str:
    """What differs between two runs, as cells."""
    one, two = load_result(folder / mine), load_result(folder / theirs)
    pairs = list(zip(one.metrics, two.metrics, strict=True))
    loss = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs)
    norm = max(abs(a["grad_norm"] - b["grad_norm"]) / a["grad_norm"] for a, b in pairs)
    gradients, others = (load_file(folder / f"{name}.gradients.safetensors")["gradients"] for name in (mine, theirs))
    apart = (gradients - others).norm(dim=1) / gradients.norm(dim=1)
    samples = [
        [read_generations(folder / name / f"generations/step-{step:06d}.jsonl") for name in (mine, theirs)]
        for step in (0, 10, 20)
    ]
    same = sum(a == b for a_file, b_file in samples for a, b in zip(a_file, b_file, strict=True))
    total = sum(len(a_file) for a_file, _ in samples)
    return f"{loss:.1e} | {norm:.1e} | {apart[0]:.1e} | {apart.max():.1e} | {same} of {total}"


def order_of_summation(rows: list[str]) -> str:
    """What the rows say of where the difference comes from."""
    worst = {}
    for row in rows:
        name, *_, gradients, _ = (cell.strip() for cell in row.strip("| ").split("|"))
        key = name.startswith("one process"), name.rpartition(" ")[2]
        worst[key] = max(worst.get(key, 0.0), float(gradients))
    text = (
        "The rows of one process add up the same sums in another order: the microbatches of a step from the last to "
        "the first; or those that two processes make, one after the other. In float32 that alone moves the gradients "
        f"of a step by up to {worst[True, 'float32']:.1e}, two processes by up to {worst[False, 'float32']:.1e}: "
    )
    if worst[False, "float32"] > 3 * worst[True, "float32"]:
        return text + "more than the order of summation explains."
    return text + (
        "it is the order of summation. It begins with the rounding of step 1, and AdamW, which divides each gradient "
        "by its own size, carries it on: a weight whose gradient is all rounding moves as far as any other. In "
        f"float64 two processes differ by up to {worst[False, 'float64']:.1e}."
    )


def expert_iteration_rows(folder: Path) -> list[str]:
    """Two rounds of expert iteration: are the kept samples those of one process?"""
    found = {}
    for mode in ("one", "ddp", "fsdp2"):
        done = run_in(mode, ["-m", "cs336_sft", "ei", "--out", str(folder / f"ei-{mode}"), *EI.split()])
        if done.returncode:
            raise SystemExit(done.stderr)
        found[mode] = kept(folder / f"ei-{mode}" / "ei")
    counts = " + ".join(str(len(rows)) for rows in found["one"])
    return [
        f"| {mode.upper()} | {counts} | {'the same' if found[mode] == found['one'] else 'OTHERS'} |"
        for mode in ("ddp", "fsdp2")
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        prepare(folder)
        rows = training_rows(folder, "float64") + training_rows(folder, "float32")
        killed = launch(folder, "killed", "ddp", KILL="0:9").returncode
        resumed = launch(folder, "killed", "one").returncode
        pairs = zip(load_result(folder / "0-float32").metrics, load_result(folder / "killed").metrics, strict=True)
        loss = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in pairs)
        lines = [
            "# Two processes against one",
            "",
            wrapped(
                f"Embedded model, {CONFIG.max_steps} steps of {CONFIG.batch_size} examples in microbatches of "
                f"{CONFIG.micro_batch_size}, on two CPU processes (gloo) and on one. The largest difference over all "
                "steps, relative to the value; of the gradients the norm of the difference, all weights together. "
                f"Written by `python tools/process_table.py` with torch {torch.__version__.split('+')[0]} on "
                f"{platform.machine()}. CI demands 1e-5 of a smaller model, in float32."
            ),
            "How to launch it: [recipes/accelerate](../recipes/accelerate/README.md).",
            "",
            "| run | loss | gradient norm | gradients of step 1 | gradients | same samples in three evaluations |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            wrapped(order_of_summation(rows)),
            "",
            "Each process generates answers to its share of the problems; the main process alone writes files. The two",
            "processes are started by `accelerate launch` with recipes/accelerate's cpu.yaml and cpu_fsdp2.yaml.",
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
            "",
            wrapped(
                "Rollouts, like evaluations, are sampled in shares. The tests also kill one of two processes in the "
                "second round and finish in one (and, as soak tests, from FSDP2 to DDP and from one process to FSDP2): "
                "the kept samples are those of one process."
            ),
        ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
