"""SFT on several GPUs: tokens a second, memory and losses of DDP and FSDP2, beside one process with the same batches.

    python benchmarks/sft_processes.py --out one.json                                           # one card
    torchrun --nproc-per-node 2 benchmarks/sft_processes.py --out two.json                      # two

Model and sequences are those of ``sft_throughput.py``; every process takes ``--micro-batch`` examples of each step.
``--batch`` is the step's, by default one microbatch a process: one process with twice the batch gives the losses that
two processes must have. Counted as there: real tokens of all processes, in the second half of the steps.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

import torch  # noqa: E402
from logprobs_peers import versions  # noqa: E402
from sft_throughput import gsm8k_examples, make_config, make_model, train  # noqa: E402

from cs336_sft.training import fsdp  # noqa: E402
from cs336_sft.training.distributed import DataParallel, SingleProcess  # noqa: E402
from cs336_sft.utils import distributed as processes  # noqa: E402
from cs336_sft.utils.files import write_json  # noqa: E402

# name -> the kind of group, CUDA graphs, layers that FSDP2 gathers at once, whether it gathers them again
ONE = {"one process": (SingleProcess, "1", 0, ""), "one process without graphs": (SingleProcess, "0", 0, "")}
SEVERAL = {
    "DDP": (DataParallel, "1", 0, ""),
    "DDP without graphs": (DataParallel, "0", 0, ""),
    "FSDP2": (fsdp.FullySharded, "0", fsdp.TOGETHER, "false"),
    "FSDP2, 14 layers at once": (fsdp.FullySharded, "0", 14, "false"),
    "FSDP2, gathered again": (fsdp.FullySharded, "0", fsdp.TOGETHER, "true"),
    "FSDP2, gathered again, layer by layer": (fsdp.FullySharded, "0", 1, "true"),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--micro-batch", type=int, default=16)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--only", nargs="+", help="names of sides")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters, to try the script")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    size = processes.world_size()
    processes.join()
    device = processes.own_device()
    batch = args.batch or args.micro_batch * size
    model = make_model(args.tiny, str(device))
    start = {name: value.to("cpu", copy=True) for name, value in model.state_dict().items()}
    examples = gsm8k_examples(max(batch, 64) * (args.steps // 2 + 2), 1000, seed=0)
    content = {
        "what": "SFT on several GPUs, real tokens a second of all processes; otherwise as sft_throughput.py",
        "processes": size,
        "batch": batch,
        "micro_batch": args.micro_batch,
        "steps": args.steps,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "seed": 0,
        "entries": [],
    }
    for name, (kind, graphs, together, again) in (ONE if size == 1 else SEVERAL).items():
        if args.only and name not in args.only:
            continue
        os.environ["CS336_CUDA_GRAPHS"], os.environ["FSDP_RESHARD_AFTER_FORWARD"] = graphs, again
        fsdp.TOGETHER = together
        model.to(device).load_state_dict(start)
        model.zero_grad(set_to_none=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began, entry, group = time.perf_counter(), {"side": name}, kind()
        try:
            config = make_config(batch_size=batch, micro_batch_size=args.micro_batch)
            entry |= train(model, examples, config, args.steps, group)
        except Exception as problem:  # in all processes alike, or the launcher ends them
            entry["failed"] = f"{type(problem).__name__}: {str(problem)[:300]}"
        if device.type == "cuda":
            entry["peak_gb_of_each"] = processes.gather(torch.cuda.max_memory_allocated() / 1e9)
        entry["wall_seconds"] = time.perf_counter() - began
        content["entries"].append(entry)
        if processes.is_main():
            shown = entry.get("failed") or f"{entry['tokens_per_second']:8.0f} tokens/s, loss {entry['losses'][-1]:.4f}"
            peaks = [round(peak, 1) for peak in entry.get("peak_gb_of_each", [])]
            print(f"{size} x {name:40s} {shown} GB {peaks} [{entry['wall_seconds']:.0f} s]", flush=True)
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                write_json(args.out, content)
    processes.leave()


if __name__ == "__main__":
    main()
