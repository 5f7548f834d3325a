r"""Run expert iteration and its controls, and record what was measured for the course.

    python recipes/record_expert_iteration.py tiny --out recorded/expert_iteration --jobs 12
    python recipes/record_expert_iteration.py tiny --out recorded/expert_iteration --jobs 12 --name tiny_short_start \
        --sft-epochs 3 --learning-rate 1e-4 --temperature 0.3
    python recipes/record_expert_iteration.py smollm2 --out recorded/expert_iteration --sampler vllm --resume
    python recipes/record_expert_iteration.py tiny --out build/ei --seeds 1 --small      # a test of this script

``tiny``: the embedded model after a first SFT on 128 examples; every arm with every seed, several processes at once.
``tiny_short_start`` begins before the format has settled, and with a learning rate that is too high.
``smollm2``: SmolLM2-135M on the generated problems (see ``measure_gsm8k`` for why), arm after arm with one engine.
Writes ``tiny.json`` or ``smollm2.json`` (configuration, versions, device, date, seeds, raw metrics of every round)
after every run. A run that fails is recorded with its error, and the others go on. ``--resume`` (smollm2) keeps the
finished runs of a file that the same settings wrote. (``tiny.json`` also holds the arm "optimizer kept", made when
rounds could keep the optimizer's state.)
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cs336_sft.experiments.config import ExpertIterationRunConfig, make_ei_config
from cs336_sft.experiments.ei_record import EIRecord, read_ei_record
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.experiments.record import write_json_compact
from cs336_sft.experiments.run_expert_iteration import load_ei_data, run_expert_iteration
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.generation.make_sampler import make_sampler
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.model.loading import best_device, load_model_and_tokenizer, quiet_libraries
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import make_examples
from cs336_sft.training.loop import train_sft
from cs336_sft.training.setup import versions

# Arm -> fields that differ from the first one. "match_samples" takes the number of samples of each round from the first
# arm's run with the same seed; "base" starts from the base model.
ARMS: dict[str, dict[str, Any]] = {
    "expert iteration": {},
    "random samples": {"select": "random", "match_samples": True},
    "random, finished": {"select": "finished", "match_samples": True},
    "human solutions": {"select": "human", "match_samples": True},
    "one per question": {"max_per_question": 1, "match_samples": True},
    "grader with 20 % errors": {"grader_error": 0.2, "match_samples": True},
    "G = 2": {"num_samples": 2},
    "G = 8": {"num_samples": 8},
    "3 epochs a round": {"epochs": 3},
    "from the start each round": {"train_from": "start"},
    "temperature 1.0": {"temperature": 1.0},
    "learning rate 1e-4": {"learning_rate": 1e-4},
    "base, lenient, format added": {"base": True, "selection_grader": "lenient", "add_format": True},
    "base, lenient": {"base": True, "selection_grader": "lenient"},
}
FIRST = ("expert iteration", "G = 2", "G = 8", "3 epochs a round")
SMOLLM2_ARMS = ("expert iteration", "random samples", "random, finished", "G = 8", "3 epochs a round")


def base_config(args: argparse.Namespace) -> ExpertIterationRunConfig:
    """Make the first arm's configuration; both models work on the generated problems."""
    tiny, gpu, small = args.part == "tiny", best_device() == "cuda", args.small
    return make_ei_config(
        profile="tiny",
        model=args.model or str(get_profile(args.part).model_source()),
        rounds=(2 if tiny else 1) if small else 5,
        questions_per_round=(16 if tiny else 4) if small else (128 if tiny else 256),
        max_new_tokens=160 if tiny else 32 if small else 200,
        chunk_questions=128 if tiny else 256,
        keep_rounds=None if tiny else 1,
        mixed_precision="bf16" if gpu and not tiny else "no",
        gen_batch_size=512 if gpu else 64,
        temperature=args.temperature,
        learning_rate=args.learning_rate,
        pool_size=args.pool_size,
        sft_size=args.sft_size,
        sft_epochs=args.sft_epochs,
        sft_learning_rate=1e-4,
        eval_size=args.eval_size,
        test_size=args.test_size,
        test_checkpoint="last",
    )


def seeded(config: ExpertIterationRunConfig, seed: int) -> ExpertIterationRunConfig:
    return replace(config, seed=seed, subset_seed=1000 + seed)


def make_start(config: ExpertIterationRunConfig, folder: Path) -> str:
    """Run the first SFT, which the arms of a seed share, and return the model's folder."""
    quiet_libraries()
    model, tokenizer = load_model_and_tokenizer(config.model, device=best_device())
    problems = load_ei_data(config).training[: config.sft_size]
    examples = make_examples(problems, get_template(config.template), tokenizer)
    train_sft(model, tokenizer, examples, config.start_config(), folder)
    return str(folder / "final")


def run_arm(
    arm: str, config: ExpertIterationRunConfig, start: str, counts: list[int] | None, work: Path, sampler: Any = None
) -> dict[str, Any]:
    """Run one arm with one seed, and return its record."""
    began = time.time()
    record: dict[str, Any] = {"arm": arm, "seed": config.seed, "changes": ARMS[arm], "samples_per_round": counts}
    changes = {name: value for name, value in ARMS[arm].items() if name not in ("match_samples", "base")}
    changes |= {"samples_per_round": tuple(counts) if counts else None}
    # The problems of the first SFT are left out of the pool also for an arm that starts from the base model.
    changes |= {"model": config.model if "base" in ARMS[arm] else start, "skip_train": config.sft_size, "sft_size": 0}
    try:
        quiet_libraries()
        if sampler is None:
            torch.set_num_threads(1)
        folder = work / f"{arm.replace(' ', '-')}-{config.seed}"
        result = run_expert_iteration(replace(config, **changes), folder, sampler=sampler, cache_dir=work / "rollouts")
        record |= {"rounds": [compact(record) for record in result.rounds], "test": compact(result.test)}
    except Exception:
        record["error"] = last_frames()
    return record | {"seconds": round(time.time() - began, 1)}


def last_frames() -> str:
    """Describe where the present exception came from, without the folders of this machine."""
    error = sys.exc_info()[1]
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = "\n".join(f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}" for frame in frames)
    return f"{places}\n{type(error).__name__}: {error}"


def compact(record: dict[str, Any]) -> dict[str, Any]:
    """Round to five digits, and drop what is missing."""
    return {
        name: float(f"{value:.5g}") if isinstance(value, float) else value
        for name, value in record.items()
        if name != "weights" and value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


# Arguments that may differ between the parts of a record: which runs are made, and for how long.
WHICH_RUNS = ("seeds", "arms", "jobs", "budget", "resume")


class Recorder:
    """Holds the runs, and rewrites the file after each."""

    def __init__(self, path: Path, args: argparse.Namespace, config: ExpertIterationConfig, **facts: Any) -> None:
        self.path, self.began, self.runs = path, time.time(), []
        self.head = {
            "command": "recipes/record_expert_iteration.py",
            "arguments": {name: value for name, value in vars(args).items() if name not in ("out", "model")},
            **versions(torch.device(best_device())),
            "config": {name: value for name, value in config.to_dict().items() if name != "model"},
            "start": f"SFT on {args.sft_size} examples, {args.sft_epochs} epochs, learning rate 1e-4",
            **facts,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        if args.resume and path.exists():
            self.resume(read_ei_record(path))

    def resume(self, record: EIRecord) -> None:
        """Keep the finished runs of the file, if the same settings made it."""
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

    def counts(self, arm: str, seed: int) -> list[int] | None:
        """Return the numbers of samples that an arm has to match, if it has to and they are known."""
        first = self.finished(FIRST[0], seed)
        return [r["kept_n"] for r in first["rounds"][1:]] if first and ARMS[arm].get("match_samples") else None

    def add(self, run: dict[str, Any]) -> None:
        self.runs.append({"date": self.head["date"], "device": self.head["device"]} | run)
        seconds = time.time() - self.began
        write_json_compact(self.path, self.head | {"seconds": round(seconds, 1), "runs": self.runs})
        text = run["error"].strip().splitlines()[-1] if "error" in run else ""
        text = text or " ".join(f"{100 * record['accuracy']:.1f}" for record in run["rounds"])
        print(f"{seconds:5.0f} s  {run['arm']:28} seed {run['seed']}  {text}", flush=True)


def record_tiny(args: argparse.Namespace, work: Path) -> None:
    config = base_config(args)
    recorder = Recorder(args.out / f"{args.name or 'tiny'}.json", args, config)
    arms = [arm for arm in args.arms or ARMS if arm in ARMS]
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        made = [pool.submit(make_start, seeded(config, seed), work / f"start-{seed}") for seed in range(args.seeds)]
        starts = [future.result() for future in made]

        # Controls wait for the first arm's counts; what matters least comes last, should the time run out.
        later = sorted((arm for arm in arms if arm not in FIRST), key=lambda arm: not ARMS[arm].get("match_samples"))
        for group in ([arm for arm in arms if arm in FIRST], later):
            runs = [
                pool.submit(run_arm, arm, seeded(config, seed), starts[seed], recorder.counts(arm, seed), work)
                for arm in group
                for seed in range(args.seeds)
                if recorder.counts(arm, seed) or not ARMS[arm].get("match_samples")  # the first arm may have failed
            ]
            for run in as_completed(runs):
                recorder.add(run.result())


def record_smollm2(args: argparse.Namespace, work: Path) -> None:
    began, config, engine = time.time(), base_config(args), nullcontext()
    recorder = Recorder(args.out / f"{args.name or 'smollm2'}.json", args, config, sampler=args.sampler)
    if args.sampler == "vllm":
        settings = VLLMConfig(max_model_len=1024, gpu_memory_utilization=0.2, kv_cache_memory_bytes=6 * 2**30)
        model, tokenizer = load_model_and_tokenizer(config.model, device="cpu")
        engine = make_sampler("vllm", model, tokenizer, source=config.model, vllm=settings)
    with engine as sampler:
        if "rollouts" not in recorder.head.get("gsm8k", {}):
            recorder.head["gsm8k"] = measure_gsm8k(config, sampler, work / "gsm8k")
        print(f"{time.time() - began:5.0f} s  GSM8K: {recorder.head['gsm8k']}", flush=True)
        for seed in range(args.seeds):
            missing = [arm for arm in args.arms or SMOLLM2_ARMS if recorder.finished(arm, seed) is None]
            start = make_start(seeded(config, seed), work / f"start-{seed}") if missing else ""
            for arm in missing:
                if time.time() - began > args.budget:
                    print(f"budget of {args.budget} s spent: {arm}, seed {seed} not run", flush=True)
                    continue
                recorder.add(run_arm(arm, seeded(config, seed), start, recorder.counts(arm, seed), work, sampler))


def measure_gsm8k(config: ExpertIterationRunConfig, sampler: Any, folder: Path) -> dict[str, Any]:
    """Run one round on GSM8K after the first SFT: is there anything that rounds could keep?"""
    limit = min(config.max_new_tokens, 32) if config.max_new_tokens < 160 else get_profile("smollm2").max_new_tokens
    changes = {"profile": "smollm2", "rounds": 1, "pool_size": None, "max_new_tokens": limit, "test_checkpoint": None}
    try:
        start, first = run_expert_iteration(replace(config, **changes), folder, sampler=sampler).rounds
    except Exception:
        return {"error": last_frames()}
    rollouts = {name.removeprefix("rollout_"): value for name, value in first.items() if name.startswith("rollout_")}
    return {"validation": compact(start), "rollouts": compact(rollouts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("tiny", "smollm2"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--model", help="model folder in place of the profile's")
    parser.add_argument("--name", help="name of the JSON file, in place of the part's")
    parser.add_argument("--sft-size", type=int, help="examples of the first SFT (default 128, smollm2 512)")
    parser.add_argument("--sft-epochs", type=int, help="passes over them (default 8, smollm2 3)")
    parser.add_argument("--learning-rate", type=float, default=3e-5, help="learning rate of the rounds")
    parser.add_argument("--temperature", type=float, default=0.7, help="temperature of the rollouts")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), metavar="ARM", help="arms (default: all of the part)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=12, help="processes at once (tiny)")
    parser.add_argument("--sampler", choices=("hf", "vllm"), default="hf", help="generation engine (smollm2)")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further arm begins (smollm2)")
    parser.add_argument("--eval-size", type=int, default=256, help="validation problems")
    parser.add_argument("--test-size", type=int, default=512, help="test problems, measured once per run")
    parser.add_argument("--pool-size", type=int, default=2048, help="questions to draw from")
    parser.add_argument("--small", action="store_true", help="two short rounds, to test this script")
    parser.add_argument("--resume", action="store_true", help="go on with the file that is there (smollm2)")
    args = parser.parse_args()
    if args.resume and args.part != "smollm2":
        parser.error("--resume goes on with a recording of smollm2; tiny makes all its runs at once")
    args.sft_size = args.sft_size or (16 if args.small else {"tiny": 128, "smollm2": 512}[args.part])
    args.sft_epochs = args.sft_epochs or (1 if args.small else {"tiny": 8, "smollm2": 3}[args.part])
    with tempfile.TemporaryDirectory() as folder:
        {"tiny": record_tiny, "smollm2": record_smollm2}[args.part](args, Path(folder))


if __name__ == "__main__":
    main()
