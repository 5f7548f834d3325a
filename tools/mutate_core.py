"""Mutation testing of the library's core: cosmic-ray makes small changes, the unit tests have to notice each.

python tools/mutate_core.py                              # the modules of SAMPLES; prints the survivors and the score
python tools/mutate_core.py losses training/step         # only these
python tools/mutate_core.py --sample 40 training/loop    # another number of mutants of each module

Needs the extra ``mutation``. PyTorch is imported once; each mutant is tested in a fork of this process, where the
changed source is what ``import`` finds. Tests that start another Python see the unchanged module, so they kill nothing.
Survivors that are no mistake have their reasons in ``tests/data/surviving_core_mutants.json``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.mutants import changed_line, mutants_of  # noqa: E402  (imports nothing of the package)

REASONS = ROOT / "tests" / "data" / "surviving_core_mutants.json"
# The tests that must notice, the quickest first: pytest stops at the first failure.
TESTS = {
    "losses": ["tests/test_losses.py"],
    "logprobs": ["tests/test_logprobs.py"],
    "tokenization": ["tests/test_tokenization.py"],
    "data/batching": ["tests/test_batching.py"],
    "training/schedules": ["tests/test_schedules.py"],
    "training/step": ["tests/test_trainer_reference.py", "tests/test_training.py"],
    "training/loop": ["tests/test_trainer_reference.py", "tests/test_training.py"],
    "expert_iteration/selection": ["tests/test_selection.py"],
    "expert_iteration/rollouts": ["tests/test_rollouts.py"],
    "evaluation/metrics": ["tests/test_metrics.py"],
    "evaluation/intervals": ["tests/test_intervals.py"],
}

# Mutants in the seeded sample of a module; metrics has 55, all of them.
SAMPLES = {
    "losses": 60,
    "logprobs": 40,
    "tokenization": 20,
    "data/batching": 60,
    "training/schedules": 40,
    "training/step": 40,
    "training/loop": 40,
    "expert_iteration/selection": 30,
    "expert_iteration/rollouts": 20,
    "evaluation/metrics": 55,
    "evaluation/intervals": 30,
}
# Tests that start another Python, which a mutant cannot fail.
DESELECTED = [
    "tests/test_trainer_reference.py::test_two_processes_have_the_weights_of_the_loop_by_hand",
    "tests/test_training.py::test_killed_at_five_moments_a_run_ends_with_the_same_bits",
]
HEAVY = ("accelerate", "hypothesis", "pandas", "pytest", "safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class Outcome:
    """One mutant: the line before and after, and whether a test failed, the time ran out, or nothing noticed."""

    module: str
    before: str
    after: str
    status: str

    @property
    def key(self) -> str:
        return f"{self.before} -> {self.after}"


class Mutated(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Serves one module of the package from a changed source."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        super().__init__(name, str(path))
        self.source = source

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname):
        return self.source_to_code(self.source, self.path)


def test(module: str, source: str, seconds: float, imported: Path | None = None) -> int:
    """Test ``source`` in a fork and return its process id.

    The names of the modules that it imported go into the file ``imported``.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    signal.alarm(int(3 * seconds) + 1)
    status = 1
    try:
        import pytest

        path = ROOT / "cs336_sft" / f"{module}.py"
        sys.meta_path.insert(0, Mutated(f"cs336_sft.{module.replace('/', '.')}", path, source))
        options = [
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:nbval",
            "--assert=plain",
            "--timeout=0",
            "--no-header",
            *(f"--deselect={name}" for name in DESELECTED),
        ]
        status = pytest.main([*options, str(path), *TESTS[module]])
        if imported is not None:
            imported.write_text("\n".join(sys.modules), encoding="utf-8")
    finally:
        os._exit(int(status))


def run(module: str, sample: int, jobs: int) -> list[Outcome]:
    """Test a seeded sample of a module's mutants, or all if there are no more."""
    text = (ROOT / "cs336_sft" / f"{module}.py").read_text(encoding="utf-8")
    mutants = [changed for _, changed in mutants_of(text)]
    if sample < len(mutants):
        mutants = random.Random(0).sample(mutants, sample)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        imported = Path(folder) / "modules.txt"
        _, status = os.waitpid(test(module, text, 600.0, imported), 0)
        if status:
            raise SystemExit(f"{module}: its tests fail without a change (status {status}): {' '.join(TESTS[module])}")
        for name in imported.read_text(encoding="utf-8").split():
            if name.split(".")[0] in HEAVY:  # once, not in each fork
                with suppress(ImportError):  # not all of `sys.modules` can be imported by name
                    importlib.import_module(name)
    limit = max(20.0, 5 * (time.monotonic() - began))
    running: dict[int, str] = {}
    found, waiting = [], list(reversed(mutants))
    while waiting or running:
        while waiting and len(running) < jobs:
            source = waiting.pop()
            running[test(module, source, limit)] = source
        pid, status = os.wait()
        source = running.pop(pid)
        name = "survived" if status == 0 else "too slow" if os.WIFSIGNALED(status) else "killed"
        found.append(Outcome(module, *changed_line(text, source), name))
        if name == "survived":
            print(f"  survived  {module}: {found[-1].key}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "modules", nargs="*", default=list(SAMPLES), help="modules of cs336_sft; default: those of SAMPLES"
    )
    parser.add_argument("--sample", type=int, help="mutants of each module, at most; default: SAMPLES, otherwise 60")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at the same time")
    args = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    for heavy in HEAVY:
        importlib.import_module(heavy)
    import torch

    torch.set_num_threads(1)
    reasons = json.loads(REASONS.read_text(encoding="utf-8")) if REASONS.is_file() else {}
    outcomes, unexplained = [], 0
    print(f"{'module':28} mutants  killed  survive  explained  seconds")
    for module in args.modules:
        began = time.monotonic()
        found = run(module, args.sample or SAMPLES.get(module, 60), args.jobs)
        alive = [outcome for outcome in found if outcome.status == "survived"]
        known = sum(outcome.key in reasons.get(module, {}) for outcome in alive)
        unexplained += len(alive) - known
        seconds = time.monotonic() - began
        killed = len(found) - len(alive)
        print(f"{module:28} {len(found):7}  {killed:6}  {len(alive):7}  {known:9}  {seconds:7.0f}", flush=True)
        outcomes += found
    killed = sum(outcome.status != "survived" for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} mutants are killed ({100 * killed / len(outcomes):.1f} %)")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
