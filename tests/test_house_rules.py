"""What must hold for every file of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
# Folders that exist on somebody's machine and nowhere else; system folders such as /proc and /usr are fine.
MACHINE_PATH = re.compile(
    r"(?<![\w.~$)}/-])(?:/home/|/root/|/work/|/tmp/|/Users/|/mnt/|/scratch/|/opt/|/content/|/kaggle/)"
    r"|[A-Z]:\\\\?Users\\"
)
REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs\.org|conda\.anaconda\.org|deb\.debian\.org|index-url[= ]+http"
)
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".npy"}
# These have to spell what they look for.
EXEMPT = {"tests/test_house_rules.py", "tests/notebook_guard.py", "tests/test_notebooks_executed.py"}


def tracked_files() -> list[Path]:
    """What git tracks, and what it would track: new files count before they are committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(ROOT / name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


def text_of(path: Path) -> str | None:
    """The text, or None for a binary file."""
    content = path.read_bytes()
    if b"\0" in content[:8192]:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def findings(pattern: re.Pattern) -> list[str]:
    found = []
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        text = None if name in EXEMPT else text_of(path)
        for number, line in enumerate((text or "").splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{name}, line {number}: {match.group()}")
    return found


@pytest.mark.parametrize("line", ['open("/home/ann/x")', "see /tmp/run", "cd /work/main", r"C:\\Users\\ann"])
def test_the_rule_sees_a_path_of_a_machine(line) -> None:
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["/sys/fs/cgroup", "tests/data/x", "$(CURDIR)/work/", "runs/home/x", "a/tmp/b"])
def test_the_rule_leaves_other_text_alone(line) -> None:
    assert not MACHINE_PATH.search(line)


def test_no_path_of_a_machine_in_any_file() -> None:
    assert findings(MACHINE_PATH) == []


def test_no_registry_address_in_any_file() -> None:
    assert findings(REGISTRY) == []


def test_files_and_repository_stay_small() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked_files()}
    assert {name: size for name, size in sizes.items() if size >= 12 * MIB} == {}
    assert sum(sizes.values()) < 60 * MIB


def test_no_pickles() -> None:
    """Loading a pickle can run code; weights are safetensors, figures are in notebooks."""
    assert [p.relative_to(ROOT).as_posix() for p in tracked_files() if p.suffix.lower() in PICKLES] == []


def test_shipped_model_stays_under_its_limit() -> None:
    weights = [path for path in tracked_files() if path.suffix == ".safetensors"]
    assert all(path.stat().st_size < 8 * MIB for path in weights)


def test_gsm8k_is_not_copied_into_the_repository() -> None:
    # The first question of its train part.
    opening = "Natalia sold clips to 48 of her friends in " + "April"
    holders = [
        p.relative_to(ROOT).as_posix()
        for p in tracked_files()
        if p.suffix == ".jsonl" and opening in (text_of(p) or "")
    ]
    assert holders == []


def test_no_eval_or_exec_in_the_package() -> None:
    """Model output is text from a stranger: nothing of it may be run."""
    call = re.compile(r"(?<![\w.])(?:eval|exec)\(|\bpickle\.|trust_remote_code=True")
    assert [hit for hit in findings(call) if hit.startswith("cs336_sft/")] == []
