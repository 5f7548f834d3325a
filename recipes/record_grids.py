"""Record the lessons' grids on a bigger machine: the sweeps of ``recipes/grids``, one by one, within a time budget.

    python recipes/record_grids.py --out recorded --budget 1300 --parts smollm2_lr,smollm2_size
    CUDA_VISIBLE_DEVICES= python recipes/record_grids.py --out recorded --budget 1800 --jobs 8 --parts tiny_lr_batch

Each part is an ordinary ``cs336-sft sweep`` and stands alone: what it has finished when the time is up is recorded.
The embedded model needs no GPU: its grids can run on the processors (second line) while SmolLM2 has the card.
``--archive FILE`` packs all records into one tar file after each part, for machines from which files have to be
fetched. SmolLM2 and Qwen need ``cs336-sft fetch smollm2`` or ``qwen2.5-coder-1.5b``, and GSM8K (``CS336_GSM8K``).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Part:
    """One sweep: the topic its record belongs to, how many runs at the same time, and which outputs are kept."""

    topic: str
    jobs: int
    generations: str = "first-seed"


# In order of priority. A run of SmolLM2 takes 6 to 13 GB of the card, one of the embedded model under 2. Six at a time
# made the first two parts in 600 and 550 s on an H100.
PARTS = {
    "smollm2_lr": Part("learning_rate_and_batch", 6),
    "smollm2_size": Part("data_size", 6, "none"),
    "truncation_smollm2": Part("truncation", 6),
    "smollm2_methods": Part("methods", 6, "none"),
    "qwen_coder_size": Part("data_size", 4, "none"),  # jobs: one a card
    "qwen_coder_truncation": Part("truncation", 4),
    "tiny_lr_batch": Part("learning_rate_and_batch", 14, "none"),
    "tiny_scaling_rule": Part("learning_rate_and_batch", 14, "none"),
    "truncation_tiny": Part("truncation", 14),
    "tiny_data_size": Part("data_size", 14, "none"),
    "tiny_methods": Part("methods", 14, "none"),
    "tiny_methods_rates": Part("methods", 14, "none"),
}


def record_path(name: str) -> Path:
    """Where the record of a part lies below ``--out``; the lessons find it by its name."""
    return Path(PARTS[name].topic) / f"{name}.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records, such as recorded")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in order; default: all")
    parser.add_argument("--budget", type=float, required=True, help="seconds for all parts together")
    parser.add_argument("--runs", type=Path, help="folder of the run directories; default: memory, else temporary")
    parser.add_argument("--jobs", type=int, help="runs at the same time, in place of each part's number")
    parser.add_argument("--threads", type=int, help="CPU threads of each run; default: the cores divided among them")
    parser.add_argument("--archive", type=Path, help="a tar.gz file with all records")
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs, to try the script out small")
    args = parser.parse_args()
    names = args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part is called {unknown[0]}; choose from {', '.join(PARTS)}")
    runs = args.runs or fast_folder()
    began, lines = time.monotonic(), []
    for name in names:
        left = args.budget - (time.monotonic() - began)
        if left < 20:
            lines.append(f"{name:20} not begun: the time is up")
            continue
        part_began = time.monotonic()
        status = sweep(name, PARTS[name], args, runs / name, left)
        lines.append(f"{name:20} exit status {status}, {time.monotonic() - part_began:.0f} s")
        if status == 0:  # else the next call goes on with what is there, if --runs names the folder
            shutil.rmtree(runs / name, ignore_errors=True)  # memory, for the next part
        if args.archive:
            pack(args.out, args.archive)
        print(f"== {lines[-1]}", flush=True)
    print("\n".join(["", *lines]))
    return 0


def sweep(name: str, part: Part, args: argparse.Namespace, runs: Path, seconds: float) -> int:
    """One part; a failure is told and does not stop the others."""
    command = [sys.executable, "-m", "cs336_sft", "sweep", str(ROOT / "recipes" / "grids" / f"{name}.json")]
    command += ["--out", str(runs), "--jobs", str(max(2, args.jobs or part.jobs)), "--time-budget", str(seconds)]
    command += ["--drop-weights", "--record", str(args.out / record_path(name)), "--generations", part.generations]
    for setting in args.set:
        command += ["--set", setting]
    if args.threads:
        command += ["--threads", str(args.threads)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    # Training and evaluation want pieces of other sizes: without this the second can't use what the first gave back.
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    print(f"== {name}: at most {seconds:.0f} s", flush=True)
    status = subprocess.run(command, env=environment, cwd=ROOT).returncode
    if status not in (0, 130):
        for log in sorted(runs.glob(".worker-*.log"))[:2]:
            print(f"-- {log.name}: {log.read_text(errors='replace')[-1500:]}", flush=True)
    return status


def fast_folder() -> Path:
    """A folder in memory where there is plenty, so that checkpoints need not wait for a disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 24 * 2**30
    return Path(tempfile.mkdtemp(prefix="cs336-runs-", dir=memory if roomy else None))


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for record in sorted(folder / record_path(name) for name in PARTS):
            for path in (record, record.with_suffix(".generations.jsonl.gz")):
                if path.exists():
                    tar.add(path, arcname=str(path.relative_to(folder)))


if __name__ == "__main__":
    sys.exit(main())
