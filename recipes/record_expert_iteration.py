r"""Run expert iteration and its controls, and record what was measured for the course.

    python recipes/record_expert_iteration.py tiny --out recorded/expert_iteration --jobs 12
    python recipes/record_expert_iteration.py tiny --out recorded/expert_iteration --jobs 12 --name tiny_short_start \
        --sft-epochs 3 --lr 1e-4 --temperature 0.3
    python recipes/record_expert_iteration.py smollm2 --out recorded/expert_iteration --sampler vllm --resume
    python recipes/record_expert_iteration.py tiny --out build/ei --seeds 1 --small      # a test of this script

``tiny``: the embedded model after fine-tuning on 128 examples; every arm with every seed, several processes at once.
``tiny_short_start`` begins before the format has settled, and with a learning rate that is too high.
``smollm2``: SmolLM2-135M on the generated problems (see ``measure_gsm8k`` for why), arm after arm with one engine.
Writes ``tiny.json`` or ``smollm2.json`` (configuration, versions, device, date, seeds, raw metrics of every round)
after every run, and prints a table. A run that fails is recorded with its error, and the others go on. ``--resume``
(smollm2) keeps the finished runs of a file that the same settings wrote, and makes the others.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import tempfile
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cs336_sft.cli.common import quiet_libraries
from cs336_sft.data.word_problems import generate_problems
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.experiments.ei_record import EIRecord, read_record
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.experiments.record import write_json_compact
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.loop import run_expert_iteration
from cs336_sft.expert_iteration.metrics import rollout_metrics
from cs336_sft.generation.make_sampler import make_sampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.grading import get_reward_fn
from cs336_sft.model.loading import best_device, load_model_and_tokenizer
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import make_examples
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.loop import train_sft
from cs336_sft.training.setup import versions

TEMPLATE = get_template("gsm8k")

# Arm -> what differs from the first one. "like" takes the number of samples of each round from the first arm's run
# with the same seed; "base" starts from the base model.
ARMS: dict[str, dict[str, Any]] = {
    "expert iteration": {},
    "random samples": {"select": "random", "like": True},
    "random, finished": {"select": "finished", "like": True},
    "human solutions": {"select": "human", "like": True},
    "one per question": {"per_question_cap": 1, "like": True},
    "grader with 20 % errors": {"grader_error": 0.2, "like": True},
    "G = 2": {"rollouts": 2},
    "G = 8": {"rollouts": 8},
    "3 epochs a round": {"epochs": 3},
    "from the start each round": {"continue_from": "start"},
    "temperature 1.0": {"temperature": 1.0},
    "learning rate 1e-4": {"lr": 1e-4},
    "optimizer kept": {"optimizer": "keep"},
    "base, lenient, format added": {"base": True, "judge": "lenient", "add_format": True},
    "base, lenient": {"base": True, "judge": "lenient"},
}
FIRST = ("expert iteration", "G = 2", "G = 8", "3 epochs a round")
SMOLLM2_ARMS = ("expert iteration", "random samples", "random, finished", "G = 8", "3 epochs a round")


def settings(name: str, args: argparse.Namespace) -> ExpertIterationConfig:
    """The first arm's configuration."""
    small = args.small
    if name == "tiny":
        return ExpertIterationConfig(
            rounds=2 if small else 5,
            questions_per_round=16 if small else 128,
            temperature=args.temperature,
            max_new_tokens=160,
            chunk_questions=128,
            sft=SFTConfig(learning_rate=args.lr, epochs=1, keep_checkpoints=1, progress=False),
        )
    gpu = best_device() == "cuda"
    return ExpertIterationConfig(
        rounds=1 if small else 5,
        questions_per_round=4 if small else 256,
        temperature=args.temperature,
        max_new_tokens=32 if small else 200,
        chunk_questions=256,
        keep_rounds=1,
        sft=SFTConfig(
            learning_rate=args.lr,
            epochs=1,
            mixed_precision="bf16" if gpu else "no",
            keep_checkpoints=1,
            progress=False,
        ),
    )


def arm_config(base: ExpertIterationConfig, arm: str, seed: int, counts: list[int] | None) -> ExpertIterationConfig:
    changes = {name: value for name, value in ARMS[arm].items() if name not in ("like", "base", "epochs", "lr")}
    sft = replace(
        base.sft,
        epochs=ARMS[arm].get("epochs", base.sft.epochs),
        learning_rate=ARMS[arm].get("lr", base.sft.learning_rate),
    )
    return replace(base, seed=seed, sft=sft, samples_per_round=tuple(counts) if counts else None, **changes)


def problems_of(seed: int, args: argparse.Namespace) -> dict[str, list]:
    """Training problems for the start, a pool for the rounds, validation and test: all disjoint."""
    train = generate_problems(args.sft_size + args.pool, split="train", seed=1000 + seed)
    return {
        "start": train[: args.sft_size],
        "pool": train[args.sft_size :],
        "validation": generate_problems(args.n, split="validation", seed=0),
        "test": generate_problems(args.n_test, split="test", seed=0),
    }


def make_start(source: str, seed: int, folder: Path, args: argparse.Namespace, sft: SFTConfig) -> str:
    """Fine-tune on reference answers; returns the model's folder."""
    quiet_libraries()
    model, tokenizer = load_model_and_tokenizer(source, device=best_device())
    steps = 2 if args.small else None
    config = replace(sft, learning_rate=1e-4, epochs=args.sft_epochs, max_steps=steps, seed=seed, eval_every=None)
    train_sft(model, tokenizer, make_examples(problems_of(seed, args)["start"], TEMPLATE, tokenizer), config, folder)
    return str(folder / "final")


def run_arm(
    arm: str,
    seed: int,
    counts: list[int] | None,
    source: str,
    work: Path,
    args: argparse.Namespace,
    name: str,
    sampler: Any = None,
) -> dict[str, Any]:
    """One run, as it is recorded."""
    began = time.time()
    record: dict[str, Any] = {"arm": arm, "seed": seed, "changes": ARMS[arm], "samples_per_round": counts}
    try:
        quiet_libraries()
        if sampler is None:
            torch.set_num_threads(1)
        model, tokenizer = load_model_and_tokenizer(source, device=best_device())
        own = sampler or make_sampler("hf", model, tokenizer, batch_size=512 if best_device() == "cuda" else 64)
        parts = problems_of(seed, args)
        result = run_expert_iteration(
            model,
            tokenizer,
            parts["pool"],
            TEMPLATE,
            arm_config(settings(name, args), arm, seed, counts),
            work / f"{arm.replace(' ', '-')}-{seed}",
            sampler=own,
            validation=parts["validation"],
            test=parts["test"],
            cache_dir=work / "rollouts",
        )
        rounds = [compact(record) for record in result.rounds]
        record |= {"rounds": rounds, "test": compact(result.test)}
    except Exception:
        record["error"] = last_frames()
    return record | {"seconds": round(time.time() - began, 1)}


def last_frames() -> str:
    """Where the present exception came from, without the folders of this machine."""
    error = sys.exc_info()[1]
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = "\n".join(f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}" for frame in frames)
    return f"{places}\n{type(error).__name__}: {error}"


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """Five digits are more than the measurements carry."""
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in record.items()
        if name != "weights" and value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


# Arguments that may differ between the parts of a record: which runs are made, and for how long.
WHICH_RUNS = ("seeds", "arms", "jobs", "budget", "resume")


class Recorder:
    """Holds the runs, and writes the file anew after each."""

    def __init__(self, path: Path, args: argparse.Namespace, config: ExpertIterationConfig, **facts: Any) -> None:
        self.path, self.began, self.runs = path, time.time(), []
        self.head = {
            "command": "recipes/record_expert_iteration.py",
            "arguments": {name: value for name, value in vars(args).items() if name not in ("out", "model")},
            **versions(torch.device(best_device())),
            "config": config.to_dict(),
            "start": f"SFT on {args.sft_size} examples, {args.sft_epochs} epochs, learning rate 1e-4",
            **facts,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        if args.resume and path.exists():
            self.take_over(read_record(path))

    def take_over(self, record: EIRecord) -> None:
        """The finished runs of the file that is there, if the same settings made it."""
        earlier = record.about
        other = [name for name in ("config", "start") if earlier[name] != self.head[name]]
        mine, theirs = self.head["arguments"], earlier["arguments"]
        other += [name for name in mine if name not in WHICH_RUNS and mine[name] != theirs.get(name)]
        if other:
            sys.exit(f"{self.path} was made with other settings ({', '.join(other)}): give --name, or no --resume")
        made = {"date": earlier["date"], "device": earlier["device"]}
        self.runs = [made | run for by_seed in record.runs.values() for run in by_seed.values()]
        self.head["gsm8k"] = earlier.get("gsm8k", {})
        self.began -= earlier["seconds"]

    def finished(self, arm: str, seed: int) -> dict[str, Any] | None:
        return next((run for run in self.runs if (run["arm"], run["seed"]) == (arm, seed) and "error" not in run), None)

    def add(self, run: dict[str, Any]) -> None:
        self.runs.append({"date": self.head["date"], "device": self.head["device"]} | run)
        seconds = round(time.time() - self.began, 1)
        write_json_compact(self.path, self.head | {"seconds": seconds, "runs": self.runs})
        if "error" in run:
            text = run["error"].strip().splitlines()[-1]
        else:
            text = " ".join(f"{100 * record['accuracy']:.1f}" for record in run["rounds"])
            text += f"  test {100 * run['test']['accuracy']:.1f}" if run["test"] else ""
        print(f"{time.time() - self.began:5.0f} s  {run['arm']:28} seed {run['seed']}  {text}", flush=True)


def record_tiny(args: argparse.Namespace, work: Path) -> None:
    config = settings("tiny", args)
    source = args.model or str(get_profile("tiny").model_source())
    recorder = Recorder(args.out / f"{args.name or 'tiny'}.json", args, config)
    arms = [arm for arm in args.arms or ARMS if arm in ARMS]
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        starts = [
            pool.submit(make_start, source, seed, work / f"start-{seed}", args, config.sft)
            for seed in range(args.seeds)
        ]
        start_of = [future.result() for future in starts]

        def submit(arm: str, seed: int, counts: list[int] | None = None) -> Future:
            start = source if ARMS[arm].get("base") else start_of[seed]
            return pool.submit(run_arm, arm, seed, counts, start, work, args, "tiny")

        # Controls wait for the first arm's counts; what matters least comes last, should the time run out.
        at_once = [arm for arm in arms if arm in FIRST]
        later = sorted((arm for arm in arms if arm not in FIRST), key=lambda arm: not ARMS[arm].get("like"))
        waiting = {submit(arm, seed) for arm in at_once for seed in range(args.seeds)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                run = future.result()
                recorder.add(run)
                if run["arm"] == FIRST[0] and "error" not in run:
                    counts = [record["kept_n"] for record in run["rounds"][1:]]
                    for arm in later:
                        waiting.add(submit(arm, run["seed"], counts if ARMS[arm].get("like") else None))


def record_smollm2(args: argparse.Namespace, work: Path) -> None:
    began = time.time()
    config = settings("smollm2", args)
    source = args.model or str(get_profile("smollm2").model_source())
    model, tokenizer = load_model_and_tokenizer(source, device="cpu")
    vllm = (
        VLLMConfig(max_model_len=1024, gpu_memory_utilization=0.2, kv_cache_memory_bytes=6 * 2**30)
        if args.sampler == "vllm"
        else None
    )
    recorder = Recorder(args.out / f"{args.name or 'smollm2'}.json", args, config, sampler=args.sampler)
    sampler = make_sampler(args.sampler, model, tokenizer, source=source, batch_size=512, vllm=vllm)
    with sampler:
        if "rollouts" not in recorder.head.get("gsm8k", {}):
            try:
                recorder.head["gsm8k"] = measure_gsm8k(source, sampler, work, args, config)
            except Exception:
                recorder.head["gsm8k"] = {"error": last_frames()}
        print(f"{time.time() - began:5.0f} s  GSM8K: {recorder.head['gsm8k']}", flush=True)
        for seed in range(args.seeds):
            missing = [arm for arm in args.arms or SMOLLM2_ARMS if recorder.finished(arm, seed) is None]
            if not missing:
                continue
            start = make_start(source, seed, work / f"start-{seed}", args, config.sft)
            for arm in missing:
                if time.time() - began > args.budget:
                    print(f"budget of {args.budget} s spent: {arm}, seed {seed} not run", flush=True)
                    continue
                first = recorder.finished(FIRST[0], seed)
                counts = [record["kept_n"] for record in first["rounds"][1:]] if first else None
                like = counts if ARMS[arm].get("like") else None
                recorder.add(run_arm(arm, seed, like, start, work, args, "smollm2", sampler))


def measure_gsm8k(
    source: str, sampler: Any, work: Path, args: argparse.Namespace, config: ExpertIterationConfig
) -> dict[str, Any]:
    """How far the model is from GSM8K after fine-tuning on 128 of its answers: whether rounds have anything to keep."""
    profile = get_profile("smollm2")
    train = profile.problems("train", args.sft_size + config.questions_per_round)
    model, tokenizer = load_model_and_tokenizer(source, device=best_device())
    sft = replace(
        config.sft, learning_rate=1e-4, epochs=args.sft_epochs, max_steps=2 if args.small else None, eval_every=None
    )
    train_sft(model, tokenizer, make_examples(train[: args.sft_size], TEMPLATE, tokenizer), sft, work / "gsm8k-start")
    sampler.update_weights(model)
    limit = 32 if args.small else profile.limit
    reward_fn = get_reward_fn(TEMPLATE.name)
    greedy = evaluate(
        sampler, profile.problems("validation", args.n), TEMPLATE, reward_fn, SamplingConfig(max_new_tokens=limit)
    )
    sampling = replace(config.sampling(), max_new_tokens=limit, record_entropy=False)
    sampled = evaluate(sampler, train[args.sft_size :], TEMPLATE, reward_fn, sampling)
    return {
        "validation": compact(greedy.metrics.as_dict()),
        "rollouts": compact(rollout_metrics(sampled.graded)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tiny", "smollm2"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--model", help="model folder in place of the profile's")
    parser.add_argument("--name", help="of the JSON file, in place of the part's")
    parser.add_argument("--sft-size", type=int, help="examples that the start is fine-tuned on; default: 128, 512")
    parser.add_argument("--sft-epochs", type=int, help="passes over them; default: tiny 8, smollm2 3")
    parser.add_argument("--lr", type=float, default=3e-5, help="learning rate of the rounds")
    parser.add_argument("--temperature", type=float, default=0.7, help="of the rollouts")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), metavar="ARM", help="default: all of the part")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=12, help="processes at once (tiny)")
    parser.add_argument("--sampler", choices=("hf", "vllm"), default="hf", help="(smollm2)")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further arm begins (smollm2)")
    parser.add_argument("--n", type=int, default=256, help="validation problems")
    parser.add_argument("--n-test", type=int, default=512, help="test problems, measured once a run")
    parser.add_argument("--pool", type=int, default=2048, help="questions to draw from")
    parser.add_argument("--small", action="store_true", help="two short rounds, to test this script")
    parser.add_argument("--resume", action="store_true", help="go on with the file that is there (smollm2)")
    args = parser.parse_args()
    if args.resume and args.part != "smollm2":
        parser.error("--resume goes on with a recording of smollm2; tiny makes all its runs at once")
    args.sft_size = args.sft_size or {"tiny": 128, "smollm2": 512}[args.part]
    args.sft_epochs = args.sft_epochs or {"tiny": 8, "smollm2": 3}[args.part]
    with tempfile.TemporaryDirectory() as folder:
        {"tiny": record_tiny, "smollm2": record_smollm2}[args.part](args, Path(folder))


if __name__ == "__main__":
    main()
