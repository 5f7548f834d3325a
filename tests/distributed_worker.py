"""What one of several processes does in ``test_several_processes.py``; no test itself.

python -m torch.distributed.run --nproc-per-node 2 distributed_worker.py FOLDER RUN [ei]

FOLDER holds model/, examples.json, config.json and problems.jsonl. The gradients of every step, whole, go to
FOLDER/RUN.gradients.safetensors. With KILL=RANK:STEP the process of that rank kills itself after that step; with
KILL=RANK:ROUND:STEP after that step of a round of expert iteration. ORDER=reversed: one process, which goes through the
microbatches of a step from the last to the first; ORDER=dealt: which makes those of two processes, one after the other.
GRAPHED=1: the step of a GPU's graphs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cs336_sft.data.gsm8k import read_problems
from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.loop import expert_iteration
from cs336_sft.expert_iteration.run_folder import ExpertIterationResult
from cs336_sft.generation.hf_sampler import HFSampler
from cs336_sft.generation.sampler import SamplingConfig, SharedSampler
from cs336_sft.grading import gsm8k_reward_fn
from cs336_sft.model.loading import load_model_and_tokenizer
from cs336_sft.prompts import get_template
from cs336_sft.records import Example
from cs336_sft.training import distributed, loop
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.loop import train_sft
from cs336_sft.utils.distributed import is_main, rank
from cs336_sft.utils.files import JsonLines


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


def in_another_order(order: str) -> None:
    """The same sums in one process, added up otherwise: what rounding alone does."""
    usual = loop.make_microbatches

    def dealt(examples, indices, micro_batch_size, pad_id):
        shares = (indices[0::2], indices[1::2])  # longest first, as `deal` orders them
        return [batch for share in shares for batch in usual(examples, share, micro_batch_size, pad_id)]

    def reverse(*arguments):
        return usual(*arguments)[::-1]

    loop.make_microbatches = {"dealt": dealt, "reversed": reverse}[order]


def lucky(response: str, reference: str) -> dict[str, float]:
    """A judge that a random model can please: about half of all texts."""
    return dict.fromkeys(("format_reward", "answer_reward", "reward"), float(len(response) % 2 == 0))


def die_at(place: str) -> None:
    """Kill this process once it has logged the step, if it is the one that ``place`` (see above) names."""
    victim, *inside, step = place.split(":")
    append = JsonLines.append

    def dying(self, record):
        append(self, record)
        here = not inside or f"round-{int(inside[0]):02d}" in self.path.parts
        if "loss" in record and record["step"] == int(step) and rank() == int(victim) and here:
            os.kill(os.getpid(), signal.SIGKILL)

    JsonLines.append = dying


def iterate(folder: Path, name: str) -> ExpertIterationResult:
    """Two rounds of expert iteration, with a model that ends its text about once in eight tokens."""
    model, tokenizer = load_model_and_tokenizer(folder / "model")
    bias = torch.zeros(model.lm_head.out_features)
    bias[tokenizer.eos_token_id] = 4.0
    model.lm_head.bias = torch.nn.Parameter(bias)
    problems = read_problems(folder / "problems.jsonl")
    config = ExpertIterationConfig(
        rounds=2,
        questions_per_round=5,
        num_samples=4,
        max_new_tokens=12,
        min_new_tokens=1,
        chunk_questions=3,
        learning_rate=1e-3,
        epochs=2,
        batch_size=3,
        checkpoint_every=2,
    )
    template, sampler = get_template("question_only"), HFSampler(model, tokenizer, 4)
    return expert_iteration(
        model,
        tokenizer,
        problems,
        template,
        config,
        folder / name,
        sampler=sampler,
        validation=problems[:3],
        test=problems[3:],
        selection_grader=lucky,
    )


def main(folder: Path, name: str) -> None:
    dtype = getattr(torch, os.environ.get("DTYPE", "float32"))
    model, tokenizer = load_model_and_tokenizer(folder / "model", dtype=dtype)
    examples = [Example(*map(tuple, pair)) for pair in json.loads((folder / "examples.json").read_text())]
    config = SFTConfig.from_dict(json.loads((folder / "config.json").read_text()))
    problems = read_problems(folder / "problems.jsonl")
    sampler = SharedSampler(HFSampler(model, tokenizer, 4))
    sampling = SamplingConfig(max_new_tokens=12, temperature=1.0, num_samples=2)

    def evaluator(step: int) -> dict:
        path = folder / name / "generations" / f"step-{step:06d}.jsonl"
        found = evaluate(sampler, problems, get_template("question_only"), gsm8k_reward_fn, sampling, path=path)
        return {"n": found.metrics.n, "avg_gen_len": found.metrics.avg_gen_len, "trunc_rate": found.metrics.trunc_rate}

    gradients: list[torch.Tensor] = []
    keep_gradients(gradients)
    train_sft(model, tokenizer, examples, config, folder / name, evaluator=evaluator)
    if is_main() and gradients:
        from safetensors.torch import save_file

        save_file({"gradients": torch.stack(gradients)}, folder / f"{name}.gradients.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "ORDER" in os.environ:
        in_another_order(os.environ["ORDER"])
    if "GRAPHED" in os.environ:  # a CPU records nothing, but goes the same way
        distributed.can_be_graphed = lambda *_: True
    if "KILL" in os.environ:
        die_at(os.environ["KILL"])
    (iterate if "ei" in sys.argv else main)(Path(sys.argv[1]), sys.argv[2])
