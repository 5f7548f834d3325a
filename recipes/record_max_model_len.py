"""What vLLM does when `max_tokens` does not fit `max_model_len`: nothing is said, and the output is shorter.

    python recipes/record_max_model_len.py --out recorded/truncation/vllm_max_model_len.json

Generates with the embedded base model, which seldom ends by itself, for a few problems at every combination of
``max_tokens`` and ``max_model_len``, one engine after another, and writes for each output the tokens of its prompt and
of itself and its finish reason. Needs vLLM (any device); takes half a minute on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# Before vLLM is imported: one process, and on a CPU one GiB of key-value cache in place of nearly all memory.
for name, value in {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}.items():
    os.environ.setdefault(name, value)


def measure(model: str, max_model_len: int, limits: list[int], prompts: list[str]) -> list[dict]:
    """One engine with this context; one row for each prompt and limit."""
    from vllm import LLM, SamplingParams
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine = LLM(model=model, max_model_len=max_model_len, enforce_eager=True, dtype="float32")
    rows = []
    for limit in limits:
        outputs = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=limit), use_tqdm=False)
        for output in outputs:
            (completion,) = output.outputs
            rows.append(
                {
                    "max_tokens": limit,
                    "max_model_len": max_model_len,
                    "prompt_tokens": len(output.prompt_token_ids),
                    "tokens": len(completion.token_ids),
                    "finish_reason": completion.finish_reason,
                }
            )
    del engine
    gc.collect()
    cleanup_dist_env_and_memory()  # a second engine in this process fails without it
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limits", type=int, nargs="+", default=[80, 160])
    parser.add_argument("--contexts", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--n", type=int, default=3, help="problems")
    args = parser.parse_args()
    started = time.perf_counter()
    import torch
    import transformers
    import vllm

    from cs336_sft.experiments.profiles import get_profile
    from cs336_sft.model.loading import embedded_model_path
    from cs336_sft.prompts import get_template

    template = get_template("gsm8k")
    # The shortest, a middling and the longest prompt of a few dozen: clipping depends on them.
    prompts = sorted((template.prompt(p) for p in get_profile("tiny").problems("validation", 33)), key=len)
    prompts = [prompts[round(k * (len(prompts) - 1) / max(1, args.n - 1))] for k in range(args.n)]
    rows = []
    for context in args.contexts:
        rows += measure(str(embedded_model_path()), context, args.limits, prompts)
    record = {
        "command": "recipes/record_max_model_len.py",
        "model": "embedded base model, float32, greedy",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "vllm": vllm.__version__,
        },
        "date": datetime.now(UTC).date().isoformat(),
        "seed": None,
        "seconds": round(time.perf_counter() - started, 1),
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
