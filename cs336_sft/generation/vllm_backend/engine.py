"""One vLLM engine: start it, run requests, give it new weights, put it to sleep, end it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from cs336_sft.errors import ConfigError, CourseError, EngineDiedError
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.vllm_backend import runtime
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.weights import (
    EXTENSION,
    PolicyTensor,
    check_names,
    expected_shapes,
    save_policy,
    weights,
)
from cs336_sft.model.loading import check_model_source
from cs336_sft.model.shape import context_length
from cs336_sft.utils import distributed as processes


class VLLMEngine:
    """A running ``vllm.LLM``. `start_engine` makes one with everything that this package needs."""

    def __init__(self, llm: Any, *, distributed_before: bool = False) -> None:
        self.llm, self._distributed_before = llm, distributed_before
        self.in_process = hasattr(llm.llm_engine, "model_executor")
        self.max_model_len: int = llm.model_config.max_model_len
        self.hf_config = llm.model_config.hf_config
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def run(self, requests: Iterable[tuple[Sequence[int], Any]]) -> Iterator[tuple[int, Any]]:
        """Generate, and yield ``(number, RequestOutput)`` as each request finishes.

        A request is a prompt's ids and vLLM's ``SamplingParams``. What is unfinished when it is closed is aborted.
        """
        from vllm.sampling_params import RequestOutputKind

        core, failed = self.llm.llm_engine, False
        self._abort_all()  # what an interrupted `llm.generate` left behind would come back among ours
        try:
            for number, (prompt_ids, params) in enumerate(requests):
                params = params.clone()
                params.output_kind = RequestOutputKind.FINAL_ONLY  # one result, when it is finished
                core.add_request(str(number), {"prompt_token_ids": list(prompt_ids)}, params)
            while core.has_unfinished_requests():
                try:
                    outputs = self._step()
                except Exception:
                    failed = True  # there is nothing left to abort in
                    raise
                yield from ((int(output.request_id), output) for output in outputs if output.finished)
        finally:
            if not failed:
                self._abort_all()

    def _abort_all(self) -> None:
        core = self.llm.llm_engine
        core.abort_request(list(core.output_processor.request_states), internal=True)

    def _step(self) -> list[Any]:
        """Run one step of the engine. RuntimeError: its process has ended."""
        if not self.in_process:
            client = self.llm.llm_engine.engine_core
            outputs = client.outputs_queue
            with outputs.not_empty:  # vLLM itself would wait forever for a process that was killed
                while not outputs.not_empty.wait_for(lambda: len(outputs.queue) > 0, timeout=0.5):
                    if client.resources.engine_dead:
                        raise RuntimeError("the engine's process has ended")
        return self.llm.llm_engine.step()

    def load_policy(self, tensors: list[PolicyTensor]) -> None:
        """Replace the weights and forget what was computed with the old ones."""
        parallel = self.llm.llm_engine.vllm_config.parallel_config
        if getattr(parallel, "worker_extension_cls", "") != EXTENSION:
            problem = "this LLM was made without the extension that takes new weights"
            raise ConfigError(problem, f"make it with init_vllm, or with LLM(..., worker_extension_cls={EXTENSION!r})")
        if self._shapes is None:
            self._shapes = expected_shapes(self.hf_config)
        check_names(tensors, self._shapes)
        if self.in_process and parallel.world_size == 1:
            self.llm.collective_rpc("load_policy", kwargs={"weights": weights(tensors)})
        else:
            memory = Path("/dev/shm")  # a file in memory, where Linux has room for one
            size = sum(4 * torch.Size(tensor.shape).numel() for tensor in tensors)
            roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * size
            with tempfile.TemporaryDirectory(dir=memory if roomy else None, prefix="cs336-policy-") as folder:
                save_policy(tensors, Path(folder))
                self.llm.collective_rpc("load_policy", kwargs={"path": folder})
        if not self.llm.reset_prefix_cache():
            problem = "the engine kept its prefix cache, which holds results of the old weights"
            raise CourseError(problem, "let every request finish before pushing weights")

    def close(self) -> None:
        """End the engine and give its memory back. A second call does nothing."""
        llm, self.llm = self.llm, None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        if self.in_process:
            llm.llm_engine.model_executor = llm.llm_engine.engine_core = None
            del llm
            runtime.forget_engine(self._distributed_before)


def collect(
    engine: VLLMEngine, requests: Sequence[tuple[Sequence[int], Any]], store: Callable[[int, Any], None], results: list
) -> list:
    """Run requests, call ``store(number, output)`` for each, and return ``results``.

    EngineDiedError and KeyboardInterrupt have the results so far in the attribute ``generations``.
    """
    done = 0
    try:
        with closing(engine.run(requests)) as finished:
            for number, output in finished:
                store(number, output)
                done += 1
    except KeyboardInterrupt as interrupt:
        interrupt.generations = results
        raise
    except Exception as error:
        raise EngineDiedError(
            f"vLLM failed after {done} of {len(requests)} requests ({type(error).__name__}: {error})",
            "start another engine (close this one first) and generate what is missing; "
            "what was finished is in the error's `generations`",
            results,
        ) from error
    return results


def start_engine(
    source: str | Path, config: VLLMConfig, *, tokenizer: str | Path | None = None, gpu: int | None = None
) -> VLLMEngine:
    """Start an engine on the weights of a folder or hub name.

    It runs in this process, except for a trainer with several processes or on another GPU than the first.
    ``tokenizer`` is a folder, where it is not the model's own; ``gpu`` counts the GPUs that this process sees.
    Raises ConfigError: vLLM is missing, or refuses these settings. CourseError: another engine lives in this process.
    """
    vllm = runtime.import_vllm()
    from vllm import envs

    # In a trainer's process it would begin a torch.distributed of one, and the other trainers would wait forever.
    own_process = bool(gpu) or processes.world_size() > 1
    if not own_process:
        runtime.check_no_engine_here()
    source = check_model_source(source)
    before = torch.distributed.is_initialized()
    envs.disable_envs_cache()  # read the environment again, which vLLM stops doing once an engine runs
    with runtime.process_kept(), runtime.environment(runtime.placement(own_process, gpu)):
        try:
            settings = engine_settings(source, config, cpu=runtime.on_cpu())
            llm = vllm.LLM(**settings, tokenizer=None if tokenizer is None else str(tokenizer))
        except Exception as error:
            if not own_process:
                runtime.forget_engine(before)
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            remedy = "see vLLM's log (VLLM_LOGGING_LEVEL=INFO shows more)"
            if "max_model_len" in str(error) and "greater than" in str(error):
                remedy = "lower max_model_len to what the model holds"
            elif "memory" in str(error):
                remedy = "free memory on the device, or lower gpu_memory_utilization or kv_cache_memory_bytes"
            raise ConfigError(f"vLLM did not start on {source}: {reason}", remedy) from error
    return VLLMEngine(llm, distributed_before=before)


def engine_settings(source: str | Path, config: VLLMConfig, *, cpu: bool) -> dict[str, Any]:
    """Choose the arguments of ``vllm.LLM``."""
    longest = config.max_model_len
    if longest is None:
        context = context_length(AutoConfig.from_pretrained(source, trust_remote_code=False))
        longest = min(context or 4096, 4096)
    settings: dict[str, Any] = {
        "model": str(source),
        "dtype": ("float32" if cpu else "bfloat16") if config.dtype == "auto" else config.dtype,
        "max_model_len": longest,
        "enforce_eager": cpu if config.enforce_eager is None else config.enforce_eager,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "seed": config.seed,
        "trust_remote_code": False,
        "generation_config": "vllm",  # not the sampling settings of the model's folder
        "worker_extension_cls": EXTENSION,
        "use_tqdm_on_load": False,
        "async_scheduling": False,  # nothing is in flight between two calls, when weights are replaced
    }
    cache = config.kv_cache_memory_bytes
    if cpu:
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            cache = cache or 2**30  # vLLM's default on a CPU is nearly all of the machine's memory
        # Seeded sampling of a prompt that is prefilled in pieces crashes there ("does not use offset").
        settings |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, longest)}
    if cache is not None:
        settings["kv_cache_memory_bytes"] = cache
    if config.sleep and not cpu:
        settings["enable_sleep_mode"] = True
    return settings


def sampling_params(sampling: SamplingConfig, eos_ids: Sequence[int], seed: int) -> Any:
    """Translate to vLLM's ``SamplingParams``, for one sample of one prompt."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        max_tokens=sampling.max_new_tokens,
        min_tokens=sampling.min_new_tokens,
        stop=list(sampling.stop) or None,
        include_stop_str_in_output=True,
        skip_special_tokens=False,  # a stop string may be a special token
        detokenize=bool(sampling.stop),
        ignore_eos=True,  # the ids given here count, not those of the model's folder
        stop_token_ids=list(eos_ids),
        logprobs=0 if sampling.record_entropy else None,  # of the chosen token, at temperature 1
    )


def chosen_logprobs(sample: Any) -> tuple[float, ...] | None:
    """Return the chosen tokens' log-probabilities, if vLLM recorded them."""
    if not sample.logprobs:
        return None
    return tuple(at[token].logprob for at, token in zip(sample.logprobs, sample.token_ids, strict=True))
