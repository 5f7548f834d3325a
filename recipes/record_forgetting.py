"""Record what fine-tuning the embedded model takes away: full, LoRA and QLoRA at several learning rates and seeds.

    python recipes/record_forgetting.py --out recorded/methods/tiny_forgetting.json --runs build/forgetting

A CPU does it in ten minutes; called again, it goes on with the runs that are missing. The runs are those of notebook 08
(384 problems, one epoch) with three seeds and more problems to evaluate; their weights are kept.
Measured are, beside the run's own last evaluation: calculations outside the training format (``forgetting``), word
problems in a prompt that was not trained, read leniently, and the loss of text like the model's pretraining.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from cs336_sft.experiments.grid import Grid, SweepRun
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.experiments.record import run_record
from cs336_sft.experiments.sweep import run_sweep
from cs336_sft.generation.make_sampler import make_sampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import lenient_reward_fn
from cs336_sft.lessons.forgetting import calculations, score_calculations, text_loss
from cs336_sft.model.loading import best_device, load_model_and_tokenizer, quiet_libraries
from cs336_sft.training.setup import versions
from recipes.pretraining_text import documents

SETTINGS = {
    "profile": "tiny",
    "train_size": 384,
    "max_steps": 48,
    "max_new_tokens": 160,
    "eval_size": 128,
    "gen_batch_size": 128,
    "eval_every": [48],
}
LEARNING_RATES = {"full": [1e-4, 2e-4], "lora": [1e-3], "qlora": [1e-3]}
FRAME = "Q: {question}\nA:"  # one of the pretraining text's, in no training example
KEPT = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate", "validation_loss", "n")


def make_grid(seeds: list[int], settings: dict) -> Grid:
    shared = SETTINGS | settings
    blocks = [
        Grid({**shared, "method": method}, {"learning_rate": rates}, tuple(seeds))
        for method, rates in LEARNING_RATES.items()
    ]
    return Grid(blocks=tuple(blocks), seeds=tuple(seeds), name="tiny_forgetting")


def measure(folder: str | Path, n_problems: int, device: str) -> dict:
    """The three measures of one model. The problems are the same for all, and in no training or validation set."""
    model, tokenizer = load_model_and_tokenizer(folder, device=device)
    problems = get_profile("tiny").problems("test", n_problems, seed=1)
    tasks = calculations(problems)
    with make_sampler("hf", model, tokenizer, batch_size=256) as sampler:
        calculated = score_calculations(sampler, tasks)
        prompts = [FRAME.replace("{question}", problem.question) for problem in problems]
        answers = sampler.generate(prompts, SamplingConfig(max_new_tokens=SETTINGS["max_new_tokens"]))
    texts = list(documents(2 * n_problems, seed=777, end_of_text=tokenizer.eos_token))
    right = [lenient_reward_fn(a[0].text, p.final) for a, p in zip(answers, problems, strict=True)]
    return {
        "calculations": fmean(calculated),
        "n_calculations": len(calculated),
        "other_prompt": fmean(right),
        "other_prompt_trained_format": fmean("####" in a[0].text for a in answers),
        "n_other_prompt": len(right),
        "text_loss": text_loss(model, tokenizer, texts),
    }


def record(run: SweepRun, runs: Path, n_problems: int, device: str) -> dict:
    about = run_record(run, runs)
    flat = about["settings"]
    row = {
        "name": run.name,
        "method": flat["method"],
        "learning_rate": flat["learning_rate"],
        "seed": flat["seed"],
    }
    row |= {name: about["evaluations"][-1][name] for name in KEPT}
    return row | measure(runs / run.name / "final", n_problems, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run directories")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--steps", type=int, help="fewer steps, to try the script out")
    args = parser.parse_args()
    quiet_libraries()
    device = best_device()
    settings = {"max_steps": args.steps, "eval_every": [args.steps]} if args.steps else {}
    grid = make_grid(args.seeds, settings)
    content = {
        "command": "recipes/record_forgetting.py",
        "settings": SETTINGS | settings,
        "frame": FRAME,
        "problems": args.problems,
        **versions(torch.device(device)),
        "base": measure(get_profile("tiny").model_source(), args.problems, device),
        "rows": [],
    }
    print("base", content["base"], flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for run in sorted(grid.runs(), key=lambda run: run.config.seed):  # whole seeds, if it is cut short
        began = time.perf_counter()
        status = run_sweep([run], args.runs).statuses[0]
        if status.status not in ("finished", "skipped"):
            print(f"{run.name}: {status.status} {status.error}", flush=True)
            continue
        content["rows"].append(record(run, args.runs, args.problems, device))
        args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        row = content["rows"][-1]
        print(
            f"{row['method']:5} lr {row['learning_rate']:.0e} seed {row['seed']}: accuracy {row['accuracy']:.1%}, "
            f"calculations {row['calculations']:.1%}, other prompt {row['other_prompt']:.1%}, text "
            f"{row['text_loss']:.3f} nats ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
