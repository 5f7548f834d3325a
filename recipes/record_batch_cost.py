"""Record tokens per second and peak memory of full fine-tuning steps by batch size, on the shapes of real models.

    python recipes/record_batch_cost.py --out recorded/learning_rate_and_batch/batch_cost.json

Random weights and random tokens of GSM8K's lengths: speed and memory do not depend on what is learned. A step is what
``train_sft`` makes: length-grouped batch, forward, backward and AdamW in float32, with bfloat16 autocast on a GPU.
Each batch size goes through at once; the last rows of a model cut batch 16 into microbatches. Lesson 05 draws the file.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cs336_sft.data.batching import epoch_batches
from cs336_sft.losses import sft_loss
from cs336_sft.model.memory_estimate import StepSetup
from cs336_sft.model.memory_measurement import build_model, measured
from cs336_sft.model.shape import known_shape
from cs336_sft.records import Example
from cs336_sft.tokenization import collate, count_targets
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.step import make_optimizer

SHAPES = ("HuggingFaceTB/SmolLM2-135M-Instruct", "Qwen/Qwen2.5-1.5B")
# GSM8K's train split in Qwen tokens: median 191 and 90th percentile 298 in total, median 78 of the prompt.
MEDIAN, SIGMA, PROMPT_SHARE = 191, 0.347, 78 / 191


def make_random_examples(n: int, vocab: int, seed: int, longest: int) -> list[Example]:
    rng = random.Random(seed)
    examples = []
    for _ in range(n):
        length = min(longest, max(8, round(rng.lognormvariate(0, SIGMA) * min(MEDIAN, longest / 2))))
        ids = [rng.randrange(1, vocab) for _ in range(length)]
        cut = round(PROMPT_SHARE * length)
        examples.append(Example(tuple(ids[:cut]), tuple(ids[cut:])))
    return examples


def measure(model, optimizer, examples, batch_size, micro, steps, device) -> dict:
    """Median over the steps after two that warm up."""
    lengths = [len(example) for example in examples]
    batches = epoch_batches(lengths, batch_size, seed=0, epoch=0)
    full = [batch for batch in batches if len(batch) == batch_size]
    rates, peaks, seconds, paddings = [], [], [], []
    for number in range(steps + 2):
        batch = full[number % len(full)]
        longest_first = sorted(batch, key=lambda index: -lengths[index])
        parts = [longest_first[first : first + micro] for first in range(0, batch_size, micro)]
        targets = count_targets([examples[index] for index in batch])
        with measured(device) if number < 3 or device.type == "cuda" else nullcontext() as meter:
            if meter:
                meter.reset_peak()
            began = time.perf_counter()
            for part in parts:
                made = collate([examples[index] for index in part], 0)
                autocast = torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
                with autocast:
                    loss, _ = sft_loss(model, made, targets)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize()
            took = time.perf_counter() - began
            if meter:
                peaks.append(meter.peak)
        if number >= 2:
            seconds.append(took)
            rates.append(sum(lengths[index] for index in batch) / took)
            positions = sum(len(part) * lengths[part[0]] for part in parts)
            paddings.append(1 - sum(lengths[index] for index in batch) / positions)
    return {
        "batch_size": batch_size,
        "micro_batch_size": micro,
        "tokens_per_second": median(rates),
        "tokens_per_second_each": rates,
        "seconds": median(seconds),
        "padding": sum(paddings) / len(paddings),
        "peak_bytes": max(peaks),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 12, 16, 24, 32])
    parser.add_argument("--micro", type=int, nargs="*", default=[8, 4, 1], help="cuts of batch 16")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--longest", type=int, default=512, help="tokens of a sequence, at most")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    content = {
        "command": "recipes/record_batch_cost.py",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "date": datetime.date.today().isoformat(),
        "settings": {
            "steps": args.steps,
            "longest": args.longest,
            "precision": "float32 weights, bf16 autocast on a GPU",
        },
        "rows": [],
        "failed": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.shapes:
        began = time.perf_counter()
        shape = known_shape(name)
        torch.manual_seed(0)
        model = build_model(shape, StepSetup(1, args.longest), device)
        optimizer = make_optimizer(model, SFTConfig(learning_rate=1e-6))
        examples = make_random_examples(16 * max(*args.sizes, 16), shape.vocab, 0, args.longest)
        for size, micro in [*((s, s) for s in args.sizes), *((16, m) for m in args.micro)]:
            try:
                row = {"shape": name, **measure(model, optimizer, examples, size, micro, args.steps, device)}
            except (torch.OutOfMemoryError, RuntimeError) as error:
                content["failed"].append({"shape": name, "batch_size": size, "error": str(error).splitlines()[0]})
                print(f"{name:40} batch {size:3} x {micro:3}: {str(error).splitlines()[0]}", flush=True)
                optimizer.zero_grad(set_to_none=True)
                continue
            content["rows"].append(row)
            args.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(
                f"{name:40} batch {size:3} micro {micro:3}  {row['tokens_per_second']:10,.0f} tokens/s  "
                f"{row['peak_bytes'] / 1e9:7.2f} GB  padding {row['padding']:.0%}",
                flush=True,
            )
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
        del model, optimizer
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
