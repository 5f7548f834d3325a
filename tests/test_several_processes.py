"""Two processes on the CPU do what one does: data parallel (DDP) and fully sharded (FSDP2), over twenty steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import make_random_model
from safetensors.torch import load_file

from cs336_sft import processes, sharding, training
from cs336_sft.errors import ConfigError
from cs336_sft.evaluation import read_generations
from cs336_sft.gsm8k import write_problems
from cs336_sft.prompts import get_template
from cs336_sft.records import Generation
from cs336_sft.run_files import read_json
from cs336_sft.sampling import SamplingConfig
from cs336_sft.sft_config import SFTConfig
from cs336_sft.tokenization import make_examples
from cs336_sft.training_result import load_result

ROOT = Path(training.__file__).parents[1]
WORKER = Path(__file__).with_name("distributed_worker.py")
CONFIG = SFTConfig(
    learning_rate=1e-3,
    max_steps=20,
    batch_size=5,
    micro_batch_size=2,
    entropy_every=5,
    eval_every=10,
    checkpoint_every=6,
    max_grad_norm=0.5,
    progress=False,
)
MODES = {"one": (1, {}), "ddp": (2, {}), "fsdp2": (2, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})}


def launch(folder: Path, name: str, mode: str, **variables: str) -> subprocess.CompletedProcess:
    """Run the worker in one or two processes."""
    number, asked = MODES[mode]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)] if number > 1 else []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *launcher, str(WORKER), str(folder), name],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment | asked | variables,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, problems) -> Path:
    """A model with one matrix as embedding and head, examples of unequal lengths, and all three runs."""
    path = tmp_path_factory.mktemp("processes")
    make_random_model(tokenizer, hidden_size=32).save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    # Eleven: the third step of an epoch has one example for two processes.
    examples = make_examples(problems[:11], get_template("question_only"), tokenizer)
    (path / "examples.json").write_text(json.dumps([[e.prompt_ids, e.response_ids] for e in examples]))
    (path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    write_problems(path / "problems.jsonl", problems[:5])
    for mode in MODES:
        done = launch(path, mode, mode)
        assert done.returncode == 0, done.stderr[-3000:]
    return path


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_loss_and_gradients_are_those_of_one_process(folder, mode) -> None:
    one, two = load_result(folder / "one"), load_result(folder / mode)
    assert read_json(two.run_dir / "versions.json")["sessions"][0]["processes"] == 2
    assert len(one.metrics) == len(two.metrics) == 20
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert (a["target_tokens"], a["tokens"], a["clipped"]) == (b["target_tokens"], b["tokens"], b["clipped"])
        for name in ("loss", "grad_norm", "entropy"):
            if name in a:
                assert a[name] == pytest.approx(b[name], rel=1e-5), (a["step"], name)
    a, b = (load_file(folder / f"{name}.gradients.safetensors")["gradients"] for name in ("one", mode))
    assert a.shape == b.shape and len(a) == 20 and a.norm(dim=1).min() > 0.1
    assert ((a - b).norm(dim=1) / a.norm(dim=1)).max() < 1e-5


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_evaluations_are_shared_out_and_hold_every_sample_once(folder, mode) -> None:
    one, two = load_result(folder / "one"), load_result(folder / mode)
    assert [record["step"] for record in two.evaluations] == [0, 10, 20]
    for a, b in zip(one.evaluations, two.evaluations, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    for step in (0, 10, 20):
        mine, theirs = (read_generations(folder / m / f"generations/step-{step:06d}.jsonl") for m in ("one", mode))
        assert mine == theirs and len(mine) == 10


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_files_are_those_of_one_process(folder, mode) -> None:
    """One writer: no line twice, no file more, and a checkpoint that a single process can read."""
    names = {path.relative_to(folder / "one") for path in (folder / "one").rglob("*")}
    assert {path.relative_to(folder / mode) for path in (folder / mode).rglob("*")} == names
    a, b = (load_file(folder / m / "final" / "model.safetensors") for m in ("one", mode))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ddp", "one"),
        pytest.param("fsdp2", "ddp", marks=pytest.mark.soak),
        pytest.param("one", "fsdp2", marks=pytest.mark.soak),
    ],
)
def test_a_run_whose_process_was_killed_goes_on_with_another_number(folder, before, after) -> None:
    """kill -9 of the main process (of two), then the same run in other processes: the same numbers in the end."""
    name = f"{before}-then-{after}"
    killed = launch(folder, name, before, KILL="0:9")
    assert killed.returncode != 0
    assert not (folder / name / "result.json").exists()
    done = launch(folder, name, after)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Resuming {folder / name} from step 6" in done.stderr
    one, two = load_result(folder / "one"), load_result(folder / name)
    assert [record["step"] for record in two.metrics] == list(range(1, 21))
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    sessions = read_json(folder / name / "versions.json")["sessions"]
    assert [(s["from_step"], s["processes"]) for s in sessions] == [(0, MODES[before][0]), (6, MODES[after][0])]
    for step in (0, 10, 20):
        path = f"generations/step-{step:06d}.jsonl"
        assert len(read_generations(folder / name / path)) == 10


@pytest.mark.parametrize(
    ("variables", "kind", "expected"),
    [
        ({}, "MULTI_GPU", False),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP", True),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "MULTI_CPU", True),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP", "FSDP version 1"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP", "FSDP version 1"),
        ({}, "DEEPSPEED", "DEEPSPEED"),
    ],
)
def test_of_the_ways_to_shard_only_fsdp2_is_taken(variables, kind, expected, monkeypatch) -> None:
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    accelerator = SimpleNamespace(num_processes=2, distributed_type=f"DistributedType.{kind}")
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=f"{expected}.*recipes/accelerate"):
            sharding.is_asked_for(accelerator)
    else:
        assert sharding.is_asked_for(accelerator) is expected


class Numbered:
    """A sampler that says which process sampled."""

    def generate(self, prompts, sampling):
        if "bad" in prompts:
            raise ValueError("no")
        return [[Generation(prompt, (1,), f"{prompt} by {processes.rank()}", "stop")] for prompt in prompts]


@pytest.mark.parametrize("engines", [(True, True, True), (True, False, False), (False, True, True)])
def test_prompts_are_shared_out_in_order(engines, monkeypatch) -> None:
    """Three processes as threads: those with a sampler share, all get everything."""
    found = in_threads(monkeypatch, 3, lambda rank: processes.SharedSampler(Numbered() if engines[rank] else None))
    assert all(texts == found[0] for texts in found)
    assert [text.split()[0] for text in found[0]] == list("abcde")
    assert {int(text.split()[-1]) for text in found[0]} == {rank for rank in range(3) if engines[rank]}


def test_an_error_in_one_process_is_one_in_all(monkeypatch) -> None:
    found = in_threads(monkeypatch, 2, lambda rank: processes.SharedSampler(Numbered()), prompts=["a", "bad", "c"])
    assert isinstance(found[1], ValueError) and "process 1 could not sample: ValueError: no" in str(found[0])


def in_threads(monkeypatch, number: int, make, prompts=("a", "b", "c", "d", "e")) -> list:
    """What each of several processes, played by threads, gets from ``generate``: texts or an error."""
    own, barrier, slots = threading.local(), threading.Barrier(number, timeout=20), [None] * number

    def gather(value):
        slots[own.rank] = value
        barrier.wait()
        values = list(slots)
        barrier.wait()
        return values

    monkeypatch.setattr(processes, "rank", lambda: own.rank)
    monkeypatch.setattr(processes, "world_size", lambda: number)
    monkeypatch.setattr(processes, "gather", gather)

    def play(rank: int):
        own.rank = rank
        try:
            return [samples[0].text for samples in make(rank).generate(list(prompts), SamplingConfig())]
        except Exception as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(play, range(number)))
