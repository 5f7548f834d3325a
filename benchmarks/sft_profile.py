"""Where the time of a training step goes: ``train_sft`` itself under PyTorch's profiler, with and without CUDA graphs.

    python benchmarks/sft_profile.py --out recorded/sft_throughput/profile.json   # a GPU of 80 GB: about a minute

The model has Qwen2.5-1.5B's shape and random weights, the sequences GSM8K's lengths, as in ``sft_throughput.py``. Eight
steps are profiled after 96 that make the shapes known. A row of the table is a kind of kernel: its milliseconds on the
GPU a step. "wall" is the time between the steps, "GPU idle" what no kernel fills. The profiler itself slows the host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

import torch  # noqa: E402
from logprobs_peers import versions  # noqa: E402
from sft_throughput import LR, gsm8k_examples, make_model  # noqa: E402

from cs336_sft.model.loading import embedded_model_path, load_tokenizer  # noqa: E402
from cs336_sft.training.config import SFTConfig  # noqa: E402
from cs336_sft.training.loop import train_sft  # noqa: E402
from cs336_sft.utils.files import write_json  # noqa: E402

FIRST, LAST = 96, 104  # the profiled steps come after FIRST
KINDS = {  # the first pattern that fits the kernel's name
    "optimizer": "adam",
    "attention": "flash|fmha|attention|sdpa",
    "output head": "_kernel$|triton|_tile|log_softmax",
    "matrix products": "gemm|nvjet|cutlass|xmma|splitK",
    "gradient norm and clipping": "lpnorm|multi_tensor_apply",
    "copies and casts": "copy|Memcpy|cast",
    "zeroing": "fill|Memset",
    "elementwise and reductions": "elementwise|reduce|index|embedding|cat|softmax",
}
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch")


def profile(batch: int, graphs: bool, tiny: bool) -> dict:
    os.environ["CS336_CUDA_GRAPHS"] = str(int(graphs))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(tiny, device)
    tokenizer = load_tokenizer(embedded_model_path())
    examples = gsm8k_examples(batch * 24, 1000, seed=0)
    config = SFTConfig(
        learning_rate=LR,
        batch_size=batch,
        epochs=5,
        max_steps=LAST,
        eval_every=(FIRST, LAST),
        mixed_precision="bf16" if device == "cuda" else "no",
        progress=False,
    )
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    profiler = torch.profiler.profile(activities=activities[: 1 + (device == "cuda")])
    times = {}

    def evaluator(step: int) -> dict[str, float]:
        if device == "cuda":
            torch.cuda.synchronize()
        if step == FIRST:
            profiler.start()
        elif step == LAST:
            times["end"] = time.perf_counter()
            profiler.stop()
        times.setdefault(step, time.perf_counter())
        return {}

    with tempfile.TemporaryDirectory() as folder:
        train_sft(model, tokenizer, examples, config, folder, evaluator=evaluator, keep_weights=False)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = LAST - FIRST
    wall = (times["end"] - times[FIRST]) / steps * 1e3
    kinds, launches, busy = dict.fromkeys([*KINDS, "other"], 0.0), 0, 0.0
    names: dict[str, float] = {}
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith("Optimizer."):
            ms = event.device_time_total / 1e3 / steps
            kind = next((kind for kind, text in KINDS.items() if re.search(text, event.name, re.I)), "other")
            kinds[kind] += ms
            busy += ms
            names[event.name] = names.get(event.name, 0.0) + ms
        elif event.name in LAUNCHES:
            launches += 1
    return {
        "batch": batch,
        "graphs": graphs,
        "wall_ms": wall,
        "gpu_busy_ms": busy,
        "launches_a_step": launches / steps,
        "ms_by_kind": kinds,
        "tokens_per_second_before_profiling": [record["tokens_per_second"] for record in records[FIRST - 8 : FIRST]],
        "losses": [record["loss"] for record in records],
        "slowest_kernels": sorted(((ms, name[:120]) for name, ms in names.items()), reverse=True)[:25],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try the script")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    content = {
        "what": "milliseconds of a training step by kind of kernel; Qwen2.5-1.5B's shape, GSM8K's lengths",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "cpu": next(
            (r.split(":")[1].strip() for r in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in r), ""
        ),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "seed": 0,
        "profiles": [],
    }
    for batch in args.batches:
        for graphs in (False, True):
            content["profiles"].append(profile(batch, graphs, args.tiny))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(args.out, content)
            print_table(content["profiles"][-1])


def print_table(found: dict) -> None:
    print(f"batch {found['batch']}, graphs {found['graphs']}: {found['launches_a_step']:.0f} launches a step")
    for kind, ms in found["ms_by_kind"].items():
        print(f"  {kind:28s} {ms:8.1f} ms")
    print(f"  {'GPU idle':28s} {found['wall_ms'] - found['gpu_busy_ms']:8.1f} ms of {found['wall_ms']:.1f}", flush=True)


if __name__ == "__main__":
    main()
