"""How many of our mistakes Stanford's own tests catch: runs them from a checkout of the assignment, one mistake a time.

python tools/stanford_catches.py PATH/TO/assignment5-alignment
python tools/stanford_catches.py CHECKOUT --model PATH --own-snapshots --json out.json

The checkout is read, never written: its tests are copied into a temporary folder, and ``compat/adapters.py`` is put
beside them. First the library has to pass what it covers, then the solutions; then each file of ``tests/mistakes``
takes the place of its function. Caught means that a test fails.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Exercise -> the adapter that its function stands behind, and the tests that call it.
COVERED = {
    "ex02": ("run_tokenize_prompt_and_output", "tokenize_prompt_and_output"),
    "ex03": ("run_masked_normalize", "masked_normalize"),
    "ex04": ("run_sft_microbatch_train_step", "sft_microbatch_train_step"),
    "ex05": ("run_compute_entropy", "compute_entropy"),
    "ex06": ("run_get_response_log_probs", "get_response_log_probs"),
    "ex09": ("run_tokenize_prompt_and_output", "tokenize_prompt_and_output"),
}
LIBRARY_ONLY = "masked_mean"

# Appended to the copy of compat/adapters.py: one file's function instead of the library's.
REPLACEMENT = """

import importlib.util as _util
import os as _os

if _os.environ.get("CS336_FUNCTION_FILE"):
    _spec = _util.spec_from_file_location("replacement", _os.environ["CS336_FUNCTION_FILE"])
    _module = _util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
    _function = getattr(_module, _os.environ["CS336_FUNCTION"])
    if _os.environ["CS336_FUNCTION"] == "masked_normalize":
        def run_masked_normalize(tensor, mask, dim=None, normalize_constant=1.0):
            return _function(tensor, mask, normalize_constant, dim)
    else:
        globals()["run_" + _os.environ["CS336_FUNCTION"]] = _function
"""
# Appended to the copy of conftest.py by --model and --own-snapshots.
MODEL = """

@pytest.fixture
def model_id():
    return {path!r}
"""
SNAPSHOTS = """

def _write(self, actual, test_name, *args, **kwargs):
    import numpy as np
    arrays = actual if isinstance(actual, dict) else {"array": actual}
    np.savez(self._get_snapshot_path(test_name), **{k: _canonicalize_array(v) for k, v in arrays.items()})

if os.environ.get("CS336_WRITE_SNAPSHOTS"):
    NumpySnapshot.assert_match = _write
"""


class Outcomes:
    """A pytest plugin that notes which tests passed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed.append(report.nodeid)


def run_tests(words: str, **variables: str) -> Outcomes:
    """The tests of the current folder whose names hold the words, in this process (which has PyTorch loaded)."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "conftest")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    outcomes, before = Outcomes(), os.environ.copy()
    os.environ.update(variables)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options = ["-q", "-p", "no:cacheprovider", "-p", "no:nbval", "--rootdir=.", "-c", os.devnull]
            pytest.main([*options, "-k", words, "tests"], plugins=[outcomes])
    finally:
        os.environ.clear()
        os.environ.update(before)
    return outcomes


@contextlib.contextmanager
def copied(checkout: Path, model: str | None, own_snapshots: bool) -> Iterator[None]:
    """Stand in a copy of the checkout's tests, connected with this library."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(checkout / "tests", Path(folder, "tests"))
        adapters = (ROOT / "compat" / "adapters.py").read_text(encoding="utf-8")
        Path(folder, "tests", "adapters.py").write_text(adapters + REPLACEMENT, encoding="utf-8")
        with Path(folder, "tests", "conftest.py").open("a", encoding="utf-8") as conftest:
            conftest.write(MODEL.format(path=model) if model else "")
            conftest.write(SNAPSHOTS if own_snapshots else "")
        sys.path[:0] = [folder, str(ROOT)]
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)
            del sys.path[:2]


def measure(checkout: Path, model: str | None, own_snapshots: bool) -> dict[str, object]:
    """The library's result and, for each mistake, whether it is caught.

    Raises:
        SystemExit: a solution fails: then the catches would mean nothing.
    """
    caught: dict[str, dict[str, bool]] = {}
    with copied(checkout, model, own_snapshots):
        every = " or ".join({words for _, words in COVERED.values()} | {LIBRARY_ONLY})
        if own_snapshots:
            # From the library first (masked_mean has no exercise), then from each solution over that.
            run_tests(every, CS336_WRITE_SNAPSHOTS="1")
        for number, (adapter, words) in COVERED.items():
            (solution,) = (ROOT / "solutions").glob(f"{number}_*.py")
            function = {"CS336_FUNCTION": adapter.removeprefix("run_")}
            if own_snapshots:
                run_tests(words, CS336_FUNCTION_FILE=str(solution), CS336_WRITE_SNAPSHOTS="1", **function)
            baseline = run_tests(words, CS336_FUNCTION_FILE=str(solution), **function)
            if baseline.failed:
                raise SystemExit(f"the solution of {number} fails {', '.join(baseline.failed)}")
            if not baseline.passed:
                continue  # this edition has no such test
            mistakes = sorted((ROOT / "tests" / "mistakes" / number).glob("*.py"))
            caught[number] = {
                file.stem: bool(run_tests(words, CS336_FUNCTION_FILE=str(file), **function).failed) for file in mistakes
            }
            print(f"{number}: {sum(caught[number].values())} of {len(mistakes)} caught", flush=True)
        library = run_tests(every)
    return {"library": {"passed": library.passed, "failed": library.failed}, "caught": caught}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="your checkout of the assignment")
    parser.add_argument("--model", help="a model's folder or name instead of the one in the checkout's conftest.py")
    parser.add_argument("--own-snapshots", action="store_true", help="expected arrays from solutions/ instead")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    found = measure(args.checkout.resolve(), args.model, args.own_snapshots)
    passed, failed = found["library"]["passed"], found["library"]["failed"]
    print(f"library: {len(passed)} of {len(passed) + len(failed)} tests pass {failed or ''}")
    for number, mistakes in found["caught"].items():
        print(f"{number} let pass: {', '.join(name for name, seen in mistakes.items() if not seen) or '-'}")
    total = [seen for mistakes in found["caught"].values() for seen in mistakes.values()]
    print(f"together: {sum(total)} of {len(total)} caught")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
