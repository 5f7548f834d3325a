"""The three vLLM functions of CS336 assignment 5 (2025), on today's vLLM.

    llm = init_vllm("Qwen/Qwen2.5-Math-1.5B", "cuda", seed=0)
    load_policy_into_vllm_instance(policy, llm)
    evaluation = evaluate_vllm(llm, r1_zero_reward_fn, prompts, sampling_params, ground_truths=answers)

The handout's own lines reach into an engine of 2024 and fail on the V1 engine. `VLLMSampler` does more: it notices
stale weights, refuses over-long prompts by itself, and gives the same samples as the Hugging Face sampler.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError, DataError, EngineDiedError
from cs336_sft.evaluation.evaluate import Evaluation, RewardFn, grade, write_generations
from cs336_sft.evaluation.metrics import compute_metrics
from cs336_sft.generation.prompt_checks import encode_prompts
from cs336_sft.generation.vllm_backend import runtime as vllm_runtime
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.engine import VLLMEngine, run_all, start_engine
from cs336_sft.generation.vllm_backend.parity import check, compare
from cs336_sft.generation.vllm_backend.sampler import check_engine_context
from cs336_sft.generation.vllm_backend.weights import policy_tensors, unwrap
from cs336_sft.records import Generation, Graded, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def init_vllm(model_id: str, device: str, seed: int, gpu_memory_utilization: float = 0.85) -> Any:
    """Start an engine that `load_policy_into_vllm_instance` can give new weights; in bfloat16, as in the handout.

    Args:
        model_id: folder or hub name.
        device: ``"cpu"``, ``"cuda"`` (the first GPU, in this process), or ``"cuda:1"`` etc. The V1 engine has no
            device argument: another GPU than the first is reached by an engine in a process of its own, which sees
            that GPU alone (the script then needs ``if __name__ == "__main__":``).
        seed: vLLM's; unlike the handout's function this one leaves this process's random states alone.
        gpu_memory_utilization: share of the card that the engine takes; ignored on a CPU.

    Returns:
        A ``vllm.LLM``.

    Raises:
        ConfigError: vLLM is missing, was built for another kind of device, or does not start.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or not (number == "" or number.isdecimal()):
        raise ConfigError(f"device is {device!r}", 'give "cpu", "cuda" or "cuda:1"')
    cpu = vllm_runtime.on_cpu()
    if cpu != (kind == "cpu"):
        raise ConfigError(
            f"device is {device!r}, and the installed vLLM is built for {'a CPU' if cpu else 'CUDA'}",
            "name that device, or install the other build",
        )
    devices = (int(number),) if number and number != "0" else None
    config = VLLMConfig(dtype="bfloat16", seed=seed, gpu_memory_utilization=gpu_memory_utilization, devices=devices)
    return start_engine(model_id, config, devices=devices).llm


def load_policy_into_vllm_instance(policy: PreTrainedModel, llm: Any) -> None:
    """Copy the policy's weights into the engine and reset its prefix cache.

    ``policy`` may be compiled, wrapped by accelerate, or a PEFT model (its adapters are merged on the way). An ``LLM``
    that was made elsewhere, without this package's worker extension, is given the weights by what vLLM has, and the
    result is compared with the policy's own outputs.

    Raises:
        ConfigError: the policy does not fit the engine; or the engine was made elsewhere in a way that can't be synced.
        EngineMismatchError: an engine made elsewhere does not compute what the policy computes.
    """
    engine = VLLMEngine(llm, owned=False)
    with torch.no_grad():
        engine.load_policy(policy_tensors(policy))
    if not engine.has_extension:
        vocabulary = unwrap(policy).get_input_embeddings().num_embeddings
        prompts = [[(17 * start + 31 * place) % vocabulary for place in range(12)] for start in range(1, 4)]
        check(compare(engine.greedy, unwrap(policy), prompts, 12), engine.dtype)


def evaluate_vllm(
    vllm_model: Any,
    reward_fn: RewardFn,
    prompts: Sequence[str],
    eval_sampling_params: Any,
    *,
    ground_truths: Sequence[str],
    path: str | Path | None = None,
) -> Evaluation:
    """Generate with a ``vllm.LLM``, grade, and keep everything in a file.

    Args:
        vllm_model: the engine.
        reward_fn: ``(response, ground_truth) -> {"format_reward", "answer_reward", "reward"}``.
        prompts: whole prompts, the template applied; tokenized without special tokens.
        eval_sampling_params: vLLM's ``SamplingParams``, taken as it is. Its default of ``max_tokens`` is 16.
        ground_truths: the reference for each prompt (the handout leaves open where its function gets them).
        path: a JSONL file for the generations; what was finished goes there too if the engine dies.

    Raises:
        DataError: no prompts, or not one ground truth for each.
        ContextLengthError: a prompt and ``max_tokens`` together exceed the engine's ``max_model_len``; nothing ran.
        EngineDiedError: the engine failed; carries what was finished.
    """
    if not prompts or len(prompts) != len(ground_truths):
        raise DataError(
            f"{len(prompts)} prompts and {len(ground_truths)} ground truths", "give one ground truth for each prompt"
        )
    engine = VLLMEngine(vllm_model, owned=False)
    encoded = encode_prompts(vllm_model.get_tokenizer(), prompts)
    params = final_only(eval_sampling_params)
    if params.max_tokens is None:
        raise ConfigError("eval_sampling_params.max_tokens is None", "give a limit")
    check_engine_context(encoded, params.max_tokens, engine.max_model_len)
    results: list[list[Generation]] = [[] for _ in prompts]
    try:
        for number, ids in enumerate(encoded):
            engine.add(number, ids, params.clone())
        for output in run_all([engine]):
            number = int(output.request_id)
            results[number] = [to_generation(prompts[number], sample) for sample in output.outputs]
    except Exception as error:
        finished = sum(map(bool, results))
        if path is not None:
            write_generations(path, _graded(prompts, ground_truths, results, reward_fn))
        raise EngineDiedError(
            f"vLLM failed after {finished} of {len(prompts)} prompts ({type(error).__name__}: {error})",
            "start another engine; what was finished is in the error's `generations`"
            + (f" and in {path}" if path is not None else ""),
            results,
        ) from error
    graded = _graded(prompts, ground_truths, results, reward_fn)
    if path is not None:
        write_generations(path, graded)
    return Evaluation(compute_metrics(graded), graded)


def final_only(params: Any) -> Any:
    """A copy of vLLM's ``SamplingParams`` under which a request's result comes once, when it is finished."""
    from vllm.sampling_params import RequestOutputKind

    params = params.clone()
    params.output_kind = RequestOutputKind.FINAL_ONLY
    return params


def to_generation(prompt: str, sample: Any) -> Generation:
    """One of vLLM's ``CompletionOutput`` as this package's record; the text is cut as the caller's parameters say."""
    logprobs = None
    if sample.logprobs:
        logprobs = tuple(at[token].logprob for at, token in zip(sample.logprobs, sample.token_ids, strict=True))
    return Generation(
        prompt=prompt,
        token_ids=tuple(sample.token_ids),
        text=sample.text,
        finish_reason="length" if sample.finish_reason == "length" else "stop",
        stop_reason=sample.stop_reason if isinstance(sample.stop_reason, str) else None,
        sample=sample.index,
        logprobs=logprobs,
    )


def _graded(
    prompts: Sequence[str], ground_truths: Sequence[str], results: list[list[Generation]], reward_fn: RewardFn
) -> tuple[Graded, ...]:
    return tuple(
        grade(Problem(prompt, truth, truth, id=f"prompt/{number}"), generation, reward_fn)
        for number, (prompt, truth) in enumerate(zip(prompts, ground_truths, strict=True))
        for generation in results[number]
    )
