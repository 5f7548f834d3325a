"""What one of several processes does in ``test_several_processes.py`` and ``tools/process_table.py``; no test itself.

python -m torch.distributed.run --nproc-per-node 2 distributed_worker.py FOLDER RUN

FOLDER holds model/, examples.json, config.json and problems.jsonl. The gradients of every step, whole, go to
FOLDER/RUN.gradients.safetensors.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cs336_sft.evaluation import evaluate
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.gsm8k import read_problems
from cs336_sft.hf_sampler import HFSampler
from cs336_sft.models import load_model_and_tokenizer
from cs336_sft.processes import SharedSampler, is_main, rank
from cs336_sft.prompts import get_template
from cs336_sft.records import Example
from cs336_sft.run_files import JsonLines
from cs336_sft.sampling import SamplingConfig
from cs336_sft.sft_config import SFTConfig
from cs336_sft.training import train_sft


def keep_gradients(kept: list[torch.Tensor]) -> None:
    """From now on AdamW's steps leave a copy of all gradients, put together from the shards."""
    step = torch.optim.AdamW.step

    def spying(self, *args, **kwargs):
        whole = [
            p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad
            for group in self.param_groups
            for p in group["params"]
        ]
        kept.append(torch.cat([gradient.detach().flatten().double() for gradient in whole]))
        return step(self, *args, **kwargs)

    torch.optim.AdamW.step = spying


def main(folder: Path, name: str) -> None:
    torch.set_num_threads(1)
    model, tokenizer = load_model_and_tokenizer(folder / "model")
    examples = [Example(*map(tuple, pair)) for pair in json.loads((folder / "examples.json").read_text())]
    config = SFTConfig.from_dict(json.loads((folder / "config.json").read_text()))
    problems = read_problems(folder / "problems.jsonl")
    sampler = SharedSampler(HFSampler(model, tokenizer, 4))
    sampling = SamplingConfig(max_new_tokens=12, temperature=1.0, n=2)

    def evaluator(step: int) -> dict:
        path = folder / name / "generations" / f"step-{step:06d}.jsonl"
        found = evaluate(sampler, problems, get_template("question_only"), gsm8k_reward_fn, sampling, path=path)
        return {"n": found.metrics.n, "avg_gen_len": found.metrics.avg_gen_len, "trunc_rate": found.metrics.trunc_rate}

    victim, at_step = (int(part) for part in os.environ.get("KILL", "-1:-1").split(":"))
    append = JsonLines.append

    def dying(self, record):
        append(self, record)
        if "loss" in record and record["step"] == at_step and rank() == victim:
            os.kill(os.getpid(), signal.SIGKILL)

    JsonLines.append = dying
    gradients: list[torch.Tensor] = []
    keep_gradients(gradients)
    train_sft(model, tokenizer, examples, config, folder / name, evaluator=evaluator)
    if is_main() and gradients:
        from safetensors.torch import save_file

        save_file({"gradients": torch.stack(gradients)}, folder / f"{name}.gradients.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
