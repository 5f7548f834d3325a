"""`log_generations` and the three vLLM functions of CS336 assignment 5 (2025), on today's vLLM.

`VLLMSampler` does more: it takes this package's sampling settings and notices stale weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.evaluation.evaluate import Evaluation, LenientFn, evaluate_generations
from cs336_sft.evaluation.metrics import Metrics
from cs336_sft.generation.response_text import check_context, encode_prompts
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.generation.vllm_backend import runtime as vllm_runtime
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import VLLMEngine, chosen_logprobs, collect, start_engine
from cs336_sft.generation.vllm_backend.weights import policy_tensors
from cs336_sft.grading import RewardFn, lenient_reward_fn
from cs336_sft.records import Generation, Graded, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def log_generations(
    sampler: Sampler,
    prompts: Sequence[str],
    ground_truths: Sequence[str],
    reward_fn: RewardFn,
    sampling: SamplingConfig,
    *,
    lenient_fn: LenientFn | None = lenient_reward_fn,
    path: str | Path | None = None,
) -> tuple[list[Graded], Metrics]:
    """Sample responses to whole prompts, and grade them as `evaluate` does.

    Entropies are recorded. Give lenient_fn=None for ground truths that are no numbers.
    """
    sampling = replace(sampling, record_entropy=True)
    problems = _prompt_problems(prompts, ground_truths)
    done = evaluate_generations(lambda: sampler.generate(prompts, sampling), problems, reward_fn, lenient_fn, path)
    return list(done.graded), done.metrics


def _prompt_problems(prompts: Sequence[str], ground_truths: Sequence[str]) -> list[Problem]:
    if not prompts or len(prompts) != len(ground_truths):
        problem = f"{len(prompts)} prompts and {len(ground_truths)} ground truths"
        raise DataError(problem, "give one ground truth for each prompt")
    return [Problem(p, t, t, id=f"prompt/{n}") for n, (p, t) in enumerate(zip(prompts, ground_truths, strict=True))]


def init_vllm(model_id: str, device: str, seed: int, gpu_memory_utilization: float = 0.85) -> Any:
    """Start a `vllm.LLM` that `load_policy_into_vllm_instance` can give new weights.

    It computes in bfloat16. `device` is "cpu", "cuda" (the first GPU, in this process) or "cuda:1" etc.: the engine
    then has a process of its own, and the script needs `if __name__ == "__main__":`. `llm.close()` ends the engine.
    Raises ConfigError: vLLM is missing, was built for another kind of device, or does not start.
    """
    kind, _, number = device.partition(":")
    build = "cpu" if vllm_runtime.on_cpu() else "cuda"
    if kind != build or not (number == "" or number.isdecimal()):
        raise ConfigError(
            f"device is {device!r}, and the installed vLLM is built for {'a CPU' if build == 'cpu' else 'CUDA'}",
            f'give "{build}" or "{build}:1", or install the other build',
        )
    config = VLLMConfig(dtype="bfloat16", seed=seed, gpu_memory_utilization=gpu_memory_utilization)
    engine = start_engine(model_id, config, gpu=int(number or 0))
    engine.llm.close = engine.close
    return engine.llm


def load_policy_into_vllm_instance(policy: PreTrainedModel, llm: Any) -> None:
    """Copy the policy's weights into the engine and reset its prefix cache.

    The policy may be compiled, wrapped by accelerate, or a PEFT model (its adapters are merged on the way).
    Raises ConfigError: the policy does not fit the engine, or the engine was made without this package's extension.
    """
    with torch.no_grad():
        VLLMEngine(llm).load_policy(policy_tensors(policy))


def evaluate_vllm(
    vllm_model: Any,
    reward_fn: RewardFn,
    prompts: Sequence[str],
    eval_sampling_params: Any,
    *,
    ground_truths: Sequence[str],
    lenient_fn: LenientFn | None = lenient_reward_fn,
    path: str | Path | None = None,
) -> Evaluation:
    """Generate with a `vllm.LLM`, grade, and keep everything in a file.

    Prompts are whole. `eval_sampling_params` are vLLM's (their default of `max_tokens` is 16). Files and errors are
    those of `evaluate`, and of `VLLMSampler.generate`.
    """
    problems = _prompt_problems(prompts, ground_truths)
    engine = VLLMEngine(vllm_model)
    encoded = encode_prompts(vllm_model.get_tokenizer(), prompts)
    params = eval_sampling_params
    if params.max_tokens is None:
        raise ConfigError("eval_sampling_params.max_tokens is None", "give a limit")
    check_context(encoded, params.max_tokens, engine.max_model_len, "max_model_len")
    results: list[list[Generation]] = [[] for _ in prompts]

    def store(number: int, output: Any) -> None:
        results[number] = [
            Generation(
                prompt=prompts[number],
                token_ids=tuple(sample.token_ids),
                text=sample.text,  # cut as the caller asked
                finish_reason="length" if sample.finish_reason == "length" else "stop",
                stop_reason=sample.stop_reason if isinstance(sample.stop_reason, str) else None,
                sample=sample.index,
                logprobs=chosen_logprobs(sample),
            )
            for sample in output.outputs
        ]

    requests = [(ids, params) for ids in encoded]
    return evaluate_generations(
        lambda: collect(engine, requests, store, results), problems, reward_fn, lenient_fn, path
    )
