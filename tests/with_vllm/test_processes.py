"""Engines outside this process, engines that end and start again, engines that die; the commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from cs336_sft.data.word_problems import generate_problems
from cs336_sft.errors import CourseError, EngineDiedError, StaleEngineError
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.evaluation.generations_file import read_generations
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.sampler import VLLMSampler
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.prompts import get_template
from cs336_sft.utils import distributed as processes

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_importing_the_sampler_does_not_import_vllm() -> None:
    """It would be slow, and too early: the settings that vLLM reads when it is imported come first."""
    run("-c", "import sys; from cs336_sft import VLLMSampler, init_vllm; assert 'vllm' not in sys.modules")


def test_a_second_engine_beside_the_first_is_refused(sampler, base, prompts) -> None:
    with pytest.raises(CourseError, match="another vLLM engine.*close"):
        VLLMSampler(*base, VLLMConfig(max_model_len=512))
    sampler.generate(prompts[:2], SamplingConfig(max_new_tokens=4))  # and the first one is whole


def test_engine_in_its_own_process_syncs_by_file_and_its_death_costs_only_what_is_unfinished(
    base, policy, prompts, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(processes, "world_size", lambda: 2)  # as for a trainer with two processes
    sampling = SamplingConfig(max_new_tokens=60, record_entropy=True)
    config = VLLMConfig(max_model_len=512, kv_cache_memory_bytes=2**27)
    before = set(psutil.Process().children(recursive=True))
    with VLLMSampler(*base, config) as sampler:
        with torch.no_grad():
            policy.model.embed_tokens.weight.mul_(1.05)
        sampler.update_weights(policy)
        expected = HFSampler(policy, base[1]).generate(prompts[:16], sampling)
        got = sampler.generate(prompts[:16], sampling)
        assert [[g.token_ids for g in s] for s in got] == [[g.token_ids for g in s] for s in expected]
        assert got[0][0].logprobs == pytest.approx(expected[0][0].logprobs, abs=1e-3)

        core = sampler.engine.llm.llm_engine
        real_step = core.step
        finished = []

        def step():
            if len(finished) >= 9:
                for child in set(psutil.Process().children(recursive=True)) - before:
                    child.send_signal(signal.SIGKILL)
            outputs = real_step()
            finished.extend(output for output in outputs if output.finished)
            return outputs

        core.step = step
        problems, path = generate_problems(64, split="validation"), tmp_path / "out.jsonl"
        plain = SamplingConfig(max_new_tokens=60)
        with pytest.raises(EngineDiedError, match=r"after \d+ of 64 requests") as caught:
            evaluate(sampler, problems, get_template("gsm8k"), gsm8k_reward_fn, plain, path=path)
        assert 9 <= caught.value.finished < 64
        partial = tmp_path / "out.partial.jsonl"
        assert str(partial) in str(caught.value) and not path.exists()
        kept = {graded.problem.id: graded.generation.token_ids for graded in read_generations(partial)}
        assert len(kept) == caught.value.finished
        reference = HFSampler(policy, base[1]).generate(prompts, plain)
        for problem, (generation,) in zip(problems, reference, strict=True):
            assert kept.get(problem.id, generation.token_ids) == generation.token_ids
        with pytest.raises(StaleEngineError, match="failed"):
            sampler.generate(prompts[:1], plain)
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


LIFE = """
import gc, random, sys, weakref
import numpy, psutil, torch
from vllm import LLM, SamplingParams, envs
from cs336_sft import evaluate_vllm, gsm8k_reward_fn, init_vllm, load_policy_into_vllm_instance
from cs336_sft.errors import ConfigError, ContextLengthError, CourseError
from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
from cs336_sft.generation.make_sampler import make_sampler
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import VLLMEngine
from cs336_sft.generation.vllm_backend.runtime import environment
from cs336_sft.generation.sampler import SamplingConfig

def rss():
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20

def raises(kind, call, text):
    try:
        call()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__}")

if __name__ == "__main__":
    source = embedded_model_path()
    policy, tokenizer = load_model_and_tokenizer(source)

    # 1. The sampler: the process's random states and thread setting survive; its memory comes back.
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()
    threads, set_threads = torch.get_num_threads(), torch.set_num_threads
    config = VLLMConfig(max_model_len=512, kv_cache_memory_bytes=600 * 2**20)
    before = rss()
    sampler = make_sampler("vllm", policy, tokenizer, source=source, vllm=config)
    assert sampler.policy_version == 1
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == numpy.random.get_state()[1]).all()
    assert torch.set_num_threads is set_threads and torch.get_num_threads() == threads
    expected = sampler.generate(["Question: 2 + 3?"], SamplingConfig(max_new_tokens=20))
    alive = rss()
    worker = sampler.engine.llm.llm_engine.model_executor.driver_worker
    modules = [weakref.ref(module) for module in worker.get_model().modules()]
    del worker
    assert len(modules) > 20 and all(ref() is not None for ref in modules)
    sampler.close()
    sampler.close()
    closed = rss()
    assert all(ref() is None for ref in modules), "something keeps the engine's model alive"
    print("MiB before, alive, closed:", round(before), round(alive), round(closed))
    assert alive - before > 600 and alive - closed > 550
    assert not torch.distributed.is_initialized()
    raises(Exception, lambda: sampler.generate(["a"], SamplingConfig()), "closed")

    # 2. An LLM made elsewhere, without the extension.
    settings = dict(enforce_eager=True, max_model_len=512, kv_cache_memory_bytes=2**27, dtype="float32")
    envs.disable_envs_cache()
    with environment({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}):
        llm = LLM(model=str(source), **settings)
    raises(ConfigError, lambda: load_policy_into_vllm_instance(policy, llm), "make it with init_vllm")
    VLLMEngine(llm).close()
    del llm

    # 3. The handout's functions.
    raises(ConfigError, lambda: init_vllm(str(source), "cuda", 0), "built for a CPU")
    raises(ConfigError, lambda: init_vllm(str(source), "tpu", 0), "give")
    llm = init_vllm(str(source), "cpu", seed=0)
    raises(CourseError, lambda: init_vllm(str(source), "cpu", seed=0), "llm.close()")
    llm.close()
    llm = init_vllm(str(source), "cpu", seed=0)
    load_policy_into_vllm_instance(policy, llm)
    prompts = [f"Question: {a} + 3?" for a in range(40)]
    params = SamplingParams(temperature=1.0, max_tokens=12, seed=1, n=2, stop=["####"], include_stop_str_in_output=True)
    path = sys.argv[1]
    evaluation = evaluate_vllm(llm, gsm8k_reward_fn, prompts, params, ground_truths=["5"] * 40, path=path)
    assert evaluation.metrics.n == 80 and len(open(path).readlines()) == 80
    assert [g.generation.sample for g in evaluation.graded[:4]] == [0, 1, 0, 1]
    assert evaluation.graded[2].generation.prompt == prompts[1]
    again = evaluate_vllm(llm, gsm8k_reward_fn, prompts, params, ground_truths=["5"] * 40)
    assert [g.generation for g in again.graded] == [g.generation for g in evaluation.graded]
    too_long = SamplingParams(max_tokens=4096)
    overlong = lambda: evaluate_vllm(llm, gsm8k_reward_fn, prompts, too_long, ground_truths=["5"] * 40)
    raises(ContextLengthError, overlong, "40 of 40")
    print("life is good")
"""


def test_life_of_engines_in_one_process(tmp_path) -> None:
    script = tmp_path / "life.py"
    script.write_text(LIFE)
    assert "life is good" in run(str(script), str(tmp_path / "out.jsonl")).stdout


def test_commands_with_vllm(tmp_path) -> None:
    """`sft` trains and evaluates through the engine; its numbers are the Hugging Face sampler's."""
    options = ["--train-size", "16", "--max-steps", "2", "--eval-size", "16", "--max-new-tokens", "60", "--json"]
    evaluations = {}
    for kind in ("hf", "vllm"):
        done = run("-m", "cs336_sft", "sft", "--out", str(tmp_path / kind), *options, "--sampler", kind)
        evaluations[kind] = json.loads(done.stdout)["evaluations"]
    assert len(evaluations["vllm"]) >= 2
    for a, b in zip(evaluations["hf"], evaluations["vllm"], strict=True):
        timeless = [name for name in a if name not in ("seconds", "entropy")]
        assert {name: a[name] for name in timeless} == {name: b[name] for name in timeless}
        assert a["entropy"] is not None and b["entropy"] is None, "vLLM records no entropies"


def test_an_engine_beside_two_trainers(tmp_path) -> None:
    """With the launcher's variables, or with a process group of its own in the trainer, all would wait for ever."""
    run(
        *"-m torch.distributed.run --standalone --nproc-per-node 2 -m cs336_sft ei --rounds 2".split(),
        *"--questions-per-round 8 --num-samples 4 --eval-size 4 --max-new-tokens 60".split(),
        *"--selection-grader lenient --add-format".split(),
        *f"--sampler vllm --max-model-len 512 --kv-cache-gib 0.12 --out {tmp_path / 'run'}".split(),
    )
    rounds = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [record["round"] for record in rounds] == [0, 1, 2] and rounds[1]["steps"] > 0
    assert rounds[2]["engine_gap"] < 1e-3, "what the two trained reached the engine"
