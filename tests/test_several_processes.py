"""Two processes on the CPU do what one does: data parallel (DDP) and fully sharded (FSDP2), over twenty steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed_worker
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from conftest import make_random_model
from safetensors.torch import load_file

from cs336_sft.data.gsm8k import write_problems
from cs336_sft.errors import ConfigError
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.expert_iteration.run_folder import load_expert_iteration
from cs336_sft.generation.sampler import SamplingConfig, SharedSampler
from cs336_sft.prompts import get_template
from cs336_sft.records import Generation
from cs336_sft.tokenization import make_examples
from cs336_sft.training import fsdp
from cs336_sft.training import loop as training
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.result import load_result, without_wall_clock
from cs336_sft.training.session import join_processes
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import JsonLines, read_json

ROOT = Path(training.__file__).parents[2]
WORKER = Path(__file__).with_name("distributed_worker.py")
CONFIG = SFTConfig(
    learning_rate=1e-3,
    max_steps=20,
    batch_size=5,
    micro_batch_size=2,
    eval_every=10,
    checkpoint_every=6,
    max_grad_norm=0.5,
    progress=False,
)
RECIPES = ROOT / "recipes" / "accelerate"
ACCELERATE = ["-m", "accelerate.commands.launch", "--config_file"]
# How many processes, and what starts them.
MODES = {
    "one": (1, []),
    "ddp": (2, [*ACCELERATE, str(RECIPES / "cpu.yaml")]),
    "fsdp2": (2, [*ACCELERATE, str(RECIPES / "cpu_fsdp2.yaml")]),
    "torchrun": (2, ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
}


def run_in(mode: str, command: Sequence[str], **variables: str) -> subprocess.CompletedProcess:
    """Run ``python COMMAND`` in one or two processes, on the CPU."""
    # accelerate takes what its own variables say before what it finds: a developer's own must not reach it.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "FSDP_"))}
    environment = inherited | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *MODES[mode][1], *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | variables,
    )


def launch(folder: Path, name: str, mode: str, *task: str, **variables: str) -> subprocess.CompletedProcess:
    """Run the worker."""
    return run_in(mode, [str(WORKER), str(folder), name, *task], **variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer, problems) -> Path:
    """A model with one matrix as embedding and head, examples of unequal lengths, problems."""
    path = tmp_path_factory.mktemp("processes")
    make_random_model(tokenizer, hidden_size=32).save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    # Eleven: the third step of an epoch has one example for two processes.
    examples = make_examples(problems[:11], get_template("question_only"), tokenizer)
    (path / "examples.json").write_text(json.dumps([[e.prompt_ids, e.response_ids] for e in examples]))
    (path / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    write_problems(path / "problems.jsonl", problems[:5])
    return path


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """The folder, after training in one process and in two."""
    for mode in ("one", "ddp", "fsdp2"):
        done = launch(folder, mode, mode)
        assert done.returncode == 0, done.stderr[-3000:]
    done = launch(folder, "graphed", "ddp", GRAPHED="1")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("mode", ["ddp", "graphed", "fsdp2"])
def test_loss_and_gradients_are_those_of_one_process(trained, mode) -> None:
    one, two = load_result(trained / "one"), load_result(trained / mode)
    assert read_json(two.run_dir / "versions.json")["sessions"][0]["processes"] == 2
    assert len(one.metrics) == len(two.metrics) == 20
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert (a["target_tokens"], a["tokens"], a["clipped"]) == (b["target_tokens"], b["tokens"], b["clipped"])
        for name in ("loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), (a["step"], name)
    a, b = (load_file(trained / f"{name}.gradients.safetensors")["gradients"] for name in ("one", mode))
    assert a.shape == b.shape and len(a) == 20 and a.norm(dim=1).min() > 0.1
    assert ((a - b).norm(dim=1) / a.norm(dim=1)).max() < 1e-5


@pytest.mark.parametrize("mode", ["ddp", "fsdp2"])
def test_evaluations_are_shared_out_and_hold_every_sample_once(trained, mode) -> None:
    one, two = load_result(trained / "one"), load_result(trained / mode)
    assert [record["step"] for record in two.evaluations] == [0, 10, 20]
    for a, b in zip(one.evaluations, two.evaluations, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    for step in (0, 10, 20):
        mine, theirs = (read_generations(trained / m / f"generations/step-{step:06d}.jsonl") for m in ("one", mode))
        assert mine == theirs and len(mine) == 10


@pytest.mark.parametrize("mode", ["ddp", "graphed", "fsdp2"])
def test_files_are_those_of_one_process(trained, mode) -> None:
    """One writer: no line twice, no file more, and a checkpoint that a single process can read."""
    names = {path.relative_to(trained / "one") for path in (trained / "one").rglob("*")}
    assert {path.relative_to(trained / mode) for path in (trained / mode).rglob("*")} == names
    a, b = (load_file(trained / m / "final" / "model.safetensors") for m in ("one", mode))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("torchrun", "one"),
        pytest.param("fsdp2", "ddp", marks=pytest.mark.soak),
        pytest.param("one", "fsdp2", marks=pytest.mark.soak),
    ],
)
def test_a_run_whose_process_was_killed_goes_on_with_another_number(trained, before, after) -> None:
    """kill -9 of the main process (of two), then the same run in other processes: the same numbers in the end."""
    name = f"{before}-then-{after}"
    killed = launch(trained, name, before, KILL="0:9")
    assert killed.returncode != 0
    assert not (trained / name / "result.json").exists()
    done = launch(trained, name, after)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Resuming {trained / name} from step 6" in done.stderr
    one, two = load_result(trained / "one"), load_result(trained / name)
    assert [record["step"] for record in two.metrics] == list(range(1, 21))
    for a, b in zip(one.metrics, two.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    sessions = read_json(trained / name / "versions.json")["sessions"]
    assert [(s["from_step"], s["processes"]) for s in sessions] == [(0, MODES[before][0]), (6, MODES[after][0])]
    for step in (0, 10, 20):
        path = f"generations/step-{step:06d}.jsonl"
        assert len(read_generations(trained / name / path)) == 10


@pytest.fixture(scope="module")
def iterated(folder):
    """Two rounds of expert iteration in this process."""
    return distributed_worker.iterate(folder, "ei-one")


def kept(run_dir: Path) -> list[list[dict]]:
    """What each round trained on, but for the name of the weights, which differ in their last bits."""
    rounds = [JsonLines(run_dir / f"round-{number:02d}" / "selected.jsonl").read() for number in (1, 2)]
    return [[{name: value for name, value in row.items() if name != "policy"} for row in rows] for rows in rounds]


def same_rounds(one, other) -> None:
    """Two runs sampled, kept and measured the same, and trained to the same weights but for rounding."""
    assert kept(one.run_dir) == kept(other.run_dir) and all(len(rows) >= 3 for rows in kept(one.run_dir))
    ones, others = (without_wall_clock([*result.rounds, result.test]) for result in (one, other))
    for a, b in zip(ones, others, strict=True):
        assert a.keys() == b.keys()
        for field in a.keys() - {"weights"}:
            expected = b[field] if b[field] is None else pytest.approx(b[field], rel=1e-4, abs=1e-5)
            assert a[field] == expected, (a.get("round", "test"), field)
    weights = [load_file(result.run_dir / "final" / "model.safetensors") for result in (one, other)]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("ddp", "one"),
        pytest.param("fsdp2", "ddp", marks=pytest.mark.soak),
        pytest.param("one", "fsdp2", marks=pytest.mark.soak),
    ],
)
def test_rounds_of_two_processes_keep_the_samples_of_one(folder, iterated, before, after) -> None:
    """Killed in the second round (whose rollouts come from the first round's weights), finished in others."""
    name = f"ei-{before}-then-{after}"
    assert launch(folder, name, before, "ei", KILL="0:2:3").returncode != 0
    assert not (folder / name / "result.json").exists()
    if after == "one":
        distributed_worker.iterate(folder, name)
    else:
        done = launch(folder, name, after, "ei")
        assert done.returncode == 0, done.stderr[-3000:]
    same_rounds(iterated, load_expert_iteration(folder / name))
    sessions = read_json(folder / name / "round-02" / "sft" / "versions.json")["sessions"]
    assert [(s["from_step"], s["processes"]) for s in sessions] == [(0, MODES[before][0]), (2, MODES[after][0])]


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["ddp", "fsdp2", "torchrun"])
def test_undisturbed_rounds_of_two_processes_are_those_of_one(folder, iterated, mode) -> None:
    done = launch(folder, f"ei-{mode}", mode, "ei")
    assert done.returncode == 0, done.stderr[-3000:]
    same_rounds(iterated, load_expert_iteration(folder / f"ei-{mode}"))


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_launch_configuration_is_what_it_says(path, monkeypatch) -> None:
    """Read by accelerate's own loader, and by what `accelerate launch` makes of it."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)
    config = load_config_from_file(str(path))  # refuses fields that it does not know
    assert (config.num_processes, config.num_machines, config.mixed_precision) == (2, 1, "no")
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "-m", "cs336_sft", "sft"])
    arguments, _, _ = _validate_launch_command(arguments)
    assert (arguments.multi_gpu or arguments.use_fsdp) and not arguments.cpu, "else one process is started"
    environment = prepare_multi_gpu_env(arguments)
    sharded, on_cpu = "fsdp2" in path.stem, "cpu" in path.stem
    assert (environment.get("ACCELERATE_USE_FSDP"), environment.get("FSDP_VERSION")) == (
        ("true", "2") if sharded else (None, None)
    )
    assert (environment.get("CUDA_VISIBLE_DEVICES") == "-1,-1") is on_cpu
    assert str(path.relative_to(ROOT)) in path.read_text(encoding="utf-8"), "it says how to launch it"
    assert path.name in (RECIPES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, True),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP version 1"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP version 1"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON_LM"),
    ],
)
def test_of_the_ways_to_shard_only_fsdp2_is_taken(variables, expected, monkeypatch) -> None:
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=f"{expected}.*recipes/accelerate"):
            fsdp.is_requested()
    else:
        assert fsdp.is_requested() is expected


def test_the_handouts_normalization_is_refused_with_several_processes(monkeypatch) -> None:
    """Its weights are those of the microbatches, and how many there are depends on the processes."""
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="normalization is 'handout' with 2 processes.*Remedy: use"):
        join_processes(SFTConfig(normalization="handout"))


class Numbered:
    """A sampler that says which process sampled."""

    def generate(self, prompts, sampling):
        if "bad" in prompts:
            raise ValueError("no")
        return [[Generation(prompt, (1,), f"{prompt} by {processes.rank()}", "stop")] for prompt in prompts]


@pytest.mark.parametrize("engines", [(True, True, True), (True, False, False), (False, True, True)])
def test_prompts_are_shared_out_in_order(engines, monkeypatch) -> None:
    """Three processes as threads: those with a sampler share, all get everything."""
    found = in_threads(monkeypatch, 3, lambda rank: SharedSampler(Numbered() if engines[rank] else None))
    assert all(texts == found[0] for texts in found)
    assert [text.split()[0] for text in found[0]] == list("abcde")
    assert {int(text.split()[-1]) for text in found[0]} == {rank for rank in range(3) if engines[rank]}


def test_an_error_in_one_process_is_one_in_all(monkeypatch) -> None:
    found = in_threads(monkeypatch, 2, lambda rank: SharedSampler(Numbered()), prompts=["a", "bad", "c"])
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
