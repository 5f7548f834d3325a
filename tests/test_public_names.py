"""Every public name can be imported from the package, whatever was imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cs336_sft

ROOT = Path(cs336_sft.__file__).resolve().parent


def test_no_public_name_is_also_a_module() -> None:
    """``from cs336_sft import name`` would give the module of that name as soon as anything had imported it."""
    modules = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules & set(cs336_sft.__all__) == set()


def test_no_name_is_listed_twice_and_the_list_stays_short() -> None:
    """Of two modules that list the same name only the later one could be reached."""
    listed = [name for names in cs336_sft._HOME.values() for name in names]
    assert len(listed) == len(set(listed)) <= 67  # seven of them of GRPO


def test_every_public_name_is_there() -> None:
    code = f"from cs336_sft import {', '.join(cs336_sft.__all__)}\nprint(type(run_expert_iteration).__name__)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert process.stdout.strip() == "function", process.stderr
