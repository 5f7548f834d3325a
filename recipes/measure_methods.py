"""Memory and speed of full fine-tuning, LoRA and QLoRA on one device, on a random model of the real shape.

    python recipes/measure_methods.py --out recorded/methods/memory_1.5b.json

Neither depends on what the weights are, so no download is needed. Each row makes a few optimizer steps as ``train_sft``
makes them, on sequences as long as GSM8K's (the percentiles of the course's table), and notes the peak of allocated
memory and the median speed. A row that does not fit is recorded as such. Generation is not in it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cs336_sft.experiments.run import free_memory
from cs336_sft.model.loading import load_quantized, quiet_libraries
from cs336_sft.model.lora import AdapterConfig, add_adapter
from cs336_sft.model.memory_estimate import StepSetup
from cs336_sft.model.memory_measurement import build_model
from cs336_sft.model.shape import known_shape
from cs336_sft.records import Example
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.setup import set_weights_dtype
from cs336_sft.training.step import make_microbatches, make_optimizer, optimizer_step

# Tokens of GSM8K's training problems in Qwen2.5's tokenizer: percentile, prompt, answer (notebook 01 measures them).
PERCENTILES = ((0, 45, 25), (50, 78, 111), (90, 112, 195), (95, 123, 229), (99, 151, 287), (100, 240, 420))


@dataclass(frozen=True)
class Row:
    """What is measured: method, type of the trained weights, sequences at once, and recomputation of activations."""

    method: str
    weights_dtype: str = "float32"
    micro_batch_size: int = 8
    gradient_checkpointing: bool = False


ROWS = (
    Row("full", micro_batch_size=4),
    Row("full"),
    Row("full", gradient_checkpointing=True),
    Row("full", weights_dtype="bfloat16"),
    Row("lora"),
    Row("lora", gradient_checkpointing=True),
    Row("qlora"),
    Row("qlora", gradient_checkpointing=True),
)


def make_examples(count: int, vocabulary: int, seed: int) -> list[Example]:
    """Random ids with GSM8K's lengths."""
    draw = random.Random(seed)
    positions, prompts, answers = zip(*PERCENTILES, strict=True)
    examples = []
    for _ in range(count):
        lengths = [round(float(np.interp(100 * draw.random(), positions, sizes))) for sizes in (prompts, answers)]
        ids = [tuple(draw.randrange(vocabulary) for _ in range(length)) for length in lengths]
        examples.append(Example(*ids))
    return examples


def load(row: Row, folder: Path, rank: int, device: str) -> torch.nn.Module:
    """The model of ``folder`` as the method wants it: frozen weights in bfloat16 on a GPU, as ``run_sft`` has them."""
    from transformers import AutoModelForCausalLM

    frozen = torch.bfloat16 if device == "cuda" else torch.float32
    if row.method == "qlora":
        model, _ = load_quantized(folder, compute_dtype=frozen, device=device)
    else:
        dtype = frozen if row.method == "lora" else getattr(torch, row.weights_dtype)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, device_map={"": device}, use_safetensors=True, trust_remote_code=False
        )
    if row.method == "full":
        return model
    return add_adapter(model, AdapterConfig(r=rank, alpha=2.0 * rank, quantize=row.method == "qlora"))


def measure(row: Row, folder: Path, args: argparse.Namespace, device: str) -> dict:
    began = time.perf_counter()
    free_memory()
    model = load(row, folder, args.rank, device)
    config = SFTConfig(
        learning_rate=1e-5,
        batch_size=args.batch,
        micro_batch_size=row.micro_batch_size,
        weights_dtype=row.weights_dtype,
        gradient_checkpointing=row.gradient_checkpointing,
        mixed_precision="bf16" if device == "cuda" else "no",
        progress=False,
    )
    examples = make_examples(args.batch * args.steps, model.get_input_embeddings().num_embeddings, seed=0)
    records = []
    set_weights_dtype(model, config)
    weights = allocated()
    if row.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = make_optimizer(model, config)
    for number in range(args.steps):
        started = time.perf_counter()
        indices = range(number * args.batch, (number + 1) * args.batch)
        indices = sorted(indices, key=lambda index: -len(examples[index]))
        microbatches = make_microbatches(examples, indices, config.micro_batch_size, pad_id=0)
        optimizer_step(model, optimizer, microbatches, config, number + 1, config.learning_rate)
        synchronize()
        tokens, seconds = sum(len(examples[index]) for index in indices), time.perf_counter() - started
        records.append({"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds})
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    reserved = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {
        **asdict(row),
        "weights_bytes": weights,
        "peak_bytes": peak,
        "reserved_bytes": reserved,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "tokens_per_second": median(record["tokens_per_second"] for record in records[1:]),
        "seconds_per_step": median(record["seconds"] for record in records[1:]),
        "tokens_per_step": sum(record["tokens"] for record in records) / len(records),
        "seconds": time.perf_counter() - began,
    }


def allocated() -> int | None:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else None


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="Qwen/Qwen2.5-Math-1.5B")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="fewer layers, to try the script out")
    parser.add_argument("--batch", type=int, default=16, help="sequences an optimizer step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    quiet_libraries()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = known_shape(args.shape)
    if args.layers:
        shape = replace(shape, layers=args.layers)
    content = {
        "command": "recipes/measure_methods.py",
        "shape": asdict(shape),
        "batch": args.batch,
        "steps": args.steps,
        "rank": args.rank,
        "seed": 0,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine() + " CPU",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "rows": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() and device == "cuda" else None
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        write_random_model(shape, Path(scratch), device)
        for row in ROWS:
            try:
                result = measure(row, Path(scratch), args, device)
            except Exception as error:  # a row that does not fit, or lacks a library, must not cost the others
                result = {**asdict(row), "error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            free_memory()
            content["rows"].append(result)
            args.out.write_text(json.dumps(content, indent=1) + "\n")
            print(describe(result), flush=True)


def write_random_model(shape, folder: Path, device: str) -> None:
    """A folder as ``save_pretrained`` writes it, in bfloat16; the tokenizer is the embedded model's, to have one."""
    from cs336_sft.model.loading import embedded_model_path, load_tokenizer

    torch.manual_seed(0)
    model = build_model(shape, StepSetup(1, 8), device).to(torch.bfloat16)
    model.save_pretrained(folder)
    load_tokenizer(embedded_model_path()).save_pretrained(folder)
    del model
    free_memory()


def describe(row: dict) -> str:
    name = f"{row['method']:6} {row['weights_dtype']:8} micro {row['micro_batch_size']}"
    name += " checkpointing" if row["gradient_checkpointing"] else ""
    if "error" in row:
        return f"{name:42} {row['error']}"
    peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f} GiB"
    return f"{name:42} peak {peak:>9}  {row['tokens_per_second']:8.0f} tokens/s  ({row['seconds']:.0f} s)"


if __name__ == "__main__":
    main()
