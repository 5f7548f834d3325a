"""Measure the embedded base model, before and after supervised fine-tuning, and write what was seen.

    python recipes/measure_tiny_base.py --model cs336_sft/assets/tiny-base --out recorded/tiny_base --split test

For every seed: the base model at the limits 160, 320 and 640; then SFT on 128 and on 512 examples (3 epochs, with the
end-of-text token in the targets), and on 512 without it; each evaluated on the same problems, greedily. Writes
``measurements.json`` (configuration, versions, device, date, seeds, raw metrics) and prints a table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cs336_sft.data.word_problems import generate_problems
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.model.loading import load_model_and_tokenizer
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import make_examples
from cs336_sft.training.loop import SFTConfig, train_sft

TEMPLATE = get_template("gsm8k")
COLUMNS = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate", "avg_gen_len")


def measure(model, tokenizer, problems, **sampling) -> dict:
    sampler = HFSampler(model, tokenizer, batch_size=256 if model.device.type == "cuda" else 64)
    return evaluate(sampler, problems, TEMPLATE, gsm8k_reward_fn, SamplingConfig(**sampling)).metrics.as_dict()


def run(args: argparse.Namespace) -> list[dict]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[dict] = []
    started = time.time()

    def report(name: str, seed: int | None, split: str, metrics: dict, **extra) -> None:
        rows.append({"name": name, "seed": seed, "split": split, **extra, **metrics})
        cells = "  ".join(f"{column} {metrics[column]:.3f}" for column in COLUMNS)
        print(f"{time.time() - started:5.0f} s  {name:28} seed {seed}  {split:17}  {cells}", flush=True)

    def load():
        model, tokenizer = load_model_and_tokenizer(args.model)
        return model.to(device), tokenizer

    problems = generate_problems(args.n, split=args.split, seed=0)
    unseen = generate_problems(args.n, split="heldout_templates", seed=0)
    model, tokenizer = load()
    for limit in args.limits:
        report(f"base, limit {limit}", None, args.split, measure(model, tokenizer, problems, max_new_tokens=limit))
    report("base, limit 160", None, "heldout_templates", measure(model, tokenizer, unseen, max_new_tokens=160))
    sampled = measure(model, tokenizer, problems[:128], max_new_tokens=160, temperature=1.0, num_samples=8)
    report("base, T=1, 8 samples", 0, args.split, sampled)
    for size, append_eos in ((128, True), (512, True), (512, False)):
        for seed in range(args.seeds):
            model, tokenizer = load()
            train = generate_problems(size, split="train", seed=1000 + seed)
            examples = make_examples(train, TEMPLATE, tokenizer, append_eos=append_eos)
            steps: dict[int, dict] = {}

            def evaluator(step, model=model, tokenizer=tokenizer, steps=steps):
                if step:
                    steps[step] = measure(model, tokenizer, problems, max_new_tokens=160)
                return {}

            config = SFTConfig(
                learning_rate=args.learning_rate, seed=seed, eval_every="log" if seed == 0 else None, progress=False
            )
            with tempfile.TemporaryDirectory() as folder:
                train_sft(model, tokenizer, examples, config, Path(folder) / "run", evaluator=evaluator)
            name = f"SFT {size}{'' if append_eos else ', no eos'}"
            for step, metrics in steps.items():
                report(name, seed, args.split, metrics, step=step, sft=asdict(config))
            if append_eos and size == 512:
                after = measure(model, tokenizer, unseen, max_new_tokens=160)
                report(name, seed, "heldout_templates", after, step=max(steps))
                sampled = measure(model, tokenizer, problems[:128], max_new_tokens=160, temperature=1.0, num_samples=8)
                report(name + ", T=1, 8 samples", seed, args.split, sampled, step=max(steps))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--n", type=int, default=1024, help="problems in each evaluation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limits", type=int, nargs="+", default=[160, 320, 640])
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args()
    rows = run(args)
    args.out.mkdir(parents=True, exist_ok=True)
    record = {
        "command": "recipes/measure_tiny_base.py",
        "split": args.split,
        "problems": args.n,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
    (args.out / "measurements.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
