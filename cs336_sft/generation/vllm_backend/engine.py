"""One vLLM engine: start it, run requests, give it new weights, put it to sleep, end it.

The sampler above speaks of prompts, samples and policies; this module speaks vLLM.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cs336_sft.errors import ConfigError, CourseError
from cs336_sft.generation.sampler import SamplingConfig
from cs336_sft.generation.vllm_backend import runtime as vllm_runtime
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.generation.vllm_backend.sampling_rule import EXTRA_ARGUMENT, PROCESSOR, SampleRule
from cs336_sft.generation.vllm_backend.weights import PolicyTensor, check_names, expected_shapes, save_policy, weights
from cs336_sft.generation.vllm_backend.worker import EXTENSION, load_policy_on_worker
from cs336_sft.utils import distributed as processes

_GIB = 2**30
_LONGEST_DEFAULT = 4096


@dataclass(frozen=True)
class EngineRequest:
    """One sample to draw: its number within the call, the prompt's ids, and the key of its noise."""

    number: int
    prompt_ids: tuple[int, ...]
    key: int


@dataclass(frozen=True)
class EngineOutput:
    """One finished sample, as the engine gives it. ``reason``: ``"stop"`` or ``"length"``."""

    number: int
    token_ids: tuple[int, ...]
    reason: str
    text: str
    stop_reason: str | int | None
    logprobs: tuple[float, ...] | None = None


class VLLMEngine:
    """A running ``vllm.LLM``.

    Args:
        llm: the engine; `start_engine` makes one with all that this package needs, another one can do less.
        owned: whether `close` ends it.
    """

    def __init__(self, llm: Any, *, owned: bool = True, distributed_before: bool = False) -> None:
        self.llm, self.owned, self._distributed_before = llm, owned, distributed_before
        core = llm.llm_engine
        self.in_process = hasattr(core, "model_executor")
        parallel = core.vllm_config.parallel_config
        self.has_extension = getattr(parallel, "worker_extension_cls", "") == EXTENSION
        self.max_model_len: int = llm.model_config.max_model_len
        self.dtype: torch.dtype = llm.model_config.dtype
        self.on_cpu = vllm_runtime.on_cpu()
        self._takes_tensors = self.in_process and parallel.world_size == 1
        self._shapes: dict[str, tuple[int, ...]] | None = None

    # --- generation

    def submit(self, requests: Sequence[EngineRequest], sampling: SamplingConfig, eos_id: int) -> None:
        """Queue requests for `step`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for request in requests:
            rule = SampleRule(
                number=request.number,
                key=request.key,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                min_new_tokens=sampling.min_new_tokens,
                eos_id=eos_id,
                record=sampling.record_entropy,
            )
            params = SamplingParams(
                temperature=0.0,  # the processor adds the noise, so that the largest score is the sample
                max_tokens=sampling.max_new_tokens,
                # Before this many tokens the processor forbids end-of-text; vLLM only has to overlook stop strings.
                min_tokens=sampling.min_new_tokens if sampling.stop else 0,
                stop=list(sampling.stop) or None,
                include_stop_str_in_output=True,
                ignore_eos=True,  # the end-of-text of training counts, not what the model's folder says
                stop_token_ids=[eos_id],
                detokenize=bool(sampling.stop),
                output_kind=RequestOutputKind.FINAL_ONLY,
                extra_args={EXTRA_ARGUMENT: asdict(rule)},
            )
            self.add(request.number, request.prompt_ids, params)

    def add(self, number: int, prompt_ids: Sequence[int], params: Any) -> None:
        """Queue one request with vLLM's own ``SamplingParams``."""
        self.llm.llm_engine.add_request(str(number), {"prompt_token_ids": list(prompt_ids)}, params)

    @property
    def busy(self) -> bool:
        return self.llm.llm_engine.has_unfinished_requests()

    def step(self) -> list[Any]:
        """One step of the engine: the requests (vLLM's ``RequestOutput``) that it finished."""
        if not self.in_process:
            self._wait_for_output()
        return [output for output in self.llm.llm_engine.step() if output.finished]

    def _wait_for_output(self) -> None:
        """Return once the engine's process has sent something; vLLM itself would wait for a killed one for ever.

        Raises:
            RuntimeError: the process has ended.
        """
        client = self.llm.llm_engine.engine_core
        outputs = client.outputs_queue
        while True:
            with outputs.not_empty:
                if outputs.not_empty.wait_for(lambda: len(outputs.queue) > 0, timeout=0.5):
                    return
            if client.resources.engine_dead:
                raise RuntimeError("the engine's process has ended")

    def greedy(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[tuple[Sequence[int], Sequence[float]]]:
        """Greedy ids and their log-probabilities for each prompt (ids), by vLLM's own means and without a stop."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=max_new_tokens, ignore_eos=True, logprobs=0)
        for number, ids in enumerate(prompts):
            self.add(number, ids, params.clone())
        outputs = {output.number: output for output in map(finished_output, run_all([self]))}
        return [(outputs[number].token_ids, outputs[number].logprobs or ()) for number in range(len(prompts))]

    def abort_all(self) -> None:
        """Forget the requests that are under way, so that the engine can take others."""
        processor = self.llm.llm_engine.output_processor
        self.llm.llm_engine.abort_request(list(processor.request_states), internal=True)

    def take_records(self) -> dict[tuple[int, int], tuple[float, float]]:
        """(request number, position) -> (log-probability, entropy) of what was recorded since the last call."""
        found = {}
        for numbers, positions, values in self.llm.collective_rpc("take_records")[0]:
            for number, position, value in zip(numbers, positions, values, strict=True):
                found[number, position] = tuple(value)
        return found

    # --- weights

    def load_policy(self, tensors: list[PolicyTensor]) -> None:
        """Replace the weights and forget what was computed with the old ones.

        Raises:
            ConfigError: the tensors are not those of the engine's model, or this engine can't be given weights.
        """
        if self._shapes is None:
            self._shapes = expected_shapes(self.llm.model_config.hf_config)
        check_names(tensors, self._shapes)
        if not self.has_extension and not self.in_process and self.on_cpu:
            raise ConfigError(
                "this LLM runs in a process of its own, without the extension that takes new weights",
                f"make it with init_vllm, or with LLM(..., worker_extension_cls={EXTENSION!r})",
            )
        if self._takes_tensors:
            method = "load_policy" if self.has_extension else load_policy_on_worker
            self.llm.collective_rpc(method, kwargs={"weights": weights(tensors)})
        else:
            self._load_by_file(tensors)
        if not self.llm.reset_prefix_cache():
            raise CourseError(
                "the engine kept its prefix cache, which holds results of the old weights",
                "let every request finish before pushing weights",
            )

    def _load_by_file(self, tensors: list[PolicyTensor]) -> None:
        memory = Path("/dev/shm")  # a file in memory, where Linux has room for one
        size = sum(4 * torch.Size(tensor.shape).numel() for tensor in tensors)
        roomy = memory.is_dir() and os.statvfs(memory).f_bavail * os.statvfs(memory).f_frsize > 2 * size
        with tempfile.TemporaryDirectory(dir=memory if roomy else None, prefix="cs336-policy-") as folder:
            save_policy(tensors, Path(folder))
            if self.has_extension:
                self.llm.collective_rpc("load_policy", kwargs={"path": folder})
            else:
                self.llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    # --- memory

    def sleep(self, level: int) -> None:
        self.llm.sleep(level=level)

    def wake(self, tags: list[str] | None = None) -> None:
        self.llm.wake_up(tags)

    def close(self) -> None:
        """End the engine and give its memory back. A second call does nothing."""
        llm, self.llm = self.llm, None
        if llm is None or not self.owned:
            return
        llm.llm_engine.engine_core.shutdown()
        if not self.in_process:
            return
        llm.llm_engine.model_executor = None
        llm.llm_engine.engine_core = None
        del llm
        vllm_runtime.forget_engine(self._distributed_before)


def start_engine(
    source: str | Path,
    config: VLLMConfig,
    *,
    tokenizer: str | Path | None = None,
    devices: tuple[int, ...] | None = None,
) -> VLLMEngine:
    """Start an engine on the weights of a folder or hub name.

    Of a trainer in several processes it runs in a process of its own, whatever the settings say: in the trainer's it
    would begin a ``torch.distributed`` of one, and the other trainers would wait for this one for ever.

    Args:
        tokenizer: folder of the tokenizer, where it is not the model's own.
        devices: GPUs of an engine in a process of its own.

    Raises:
        ConfigError: vLLM is missing, or refuses these settings (its message is passed on).
        CourseError: another engine lives in this process.
    """
    vllm = vllm_runtime.import_vllm()
    cpu = vllm_runtime.on_cpu()
    separate = config.separate or processes.world_size() > 1
    if not separate:
        vllm_runtime.check_no_engine_here()
    settings = engine_settings(source, config, cpu=cpu)
    if tokenizer is not None:
        settings["tokenizer"] = str(tokenizer)
    before = torch.distributed.is_initialized()
    vllm_runtime.read_environment_again()
    with vllm_runtime.process_kept(), vllm_runtime.environment(vllm_runtime.placement(separate, devices)):
        try:
            llm = vllm.LLM(**settings)
        except Exception as error:
            if not separate:
                vllm_runtime.forget_engine(before)
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise ConfigError(f"vLLM did not start on {source}: {reason}", _remedy(str(error))) from error
    return VLLMEngine(llm, distributed_before=before)


def engine_settings(source: str | Path, config: VLLMConfig, *, cpu: bool) -> dict[str, Any]:
    """The arguments of ``vllm.LLM``.

    >>> settings = engine_settings("folder", VLLMConfig(max_model_len=512), cpu=True)
    >>> settings["dtype"], settings["enforce_eager"], settings["enable_chunked_prefill"]
    ('float32', True, False)
    """
    longest = config.max_model_len or _context_of(source)
    settings: dict[str, Any] = {
        "model": str(source),
        "dtype": ("float32" if cpu else "bfloat16") if config.dtype == "auto" else config.dtype,
        "max_model_len": longest,
        "enforce_eager": cpu if config.enforce_eager is None else config.enforce_eager,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "seed": config.seed,
        "trust_remote_code": False,
        "generation_config": "vllm",  # not the sampling settings and end-of-text ids of the model's folder
        "worker_extension_cls": EXTENSION,
        "logits_processors": [PROCESSOR],
        "use_tqdm_on_load": False,
        "async_scheduling": False,  # a logits processor must see the tokens so far
    }
    cache = config.kv_cache_memory_bytes
    if cpu:
        # vLLM's default on a CPU is nearly all of the machine's memory.
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            cache = cache or _GIB
        # Seeded sampling of a prompt that is prefilled in pieces crashes there ("does not use offset").
        settings |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, longest)}
    if cache is not None:
        settings["kv_cache_memory_bytes"] = cache
    if config.max_num_seqs is not None:
        settings["max_num_seqs"] = config.max_num_seqs
    if config.can_sleep and not cpu:
        settings["enable_sleep_mode"] = True
    return settings


def _context_of(source: str | Path) -> int:
    if not Path(source).is_dir():
        return _LONGEST_DEFAULT
    import json

    config = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    return min(config.get("max_position_embeddings") or _LONGEST_DEFAULT, _LONGEST_DEFAULT)


def _remedy(message: str) -> str:
    if "max_model_len" in message and "greater than" in message:
        return "lower max_model_len to what the model holds"
    if "memory" in message:
        return (
            "free memory on the device, lower gpu_memory_utilization or kv_cache_memory_bytes, "
            "or start the engine before the trainer's tensors are on the card"
        )
    return "see vLLM's log (VLLM_LOGGING_LEVEL=INFO shows more)"


def finished_output(output: Any) -> EngineOutput:
    """What this package needs of vLLM's ``RequestOutput`` with one sample."""
    (sample,) = output.outputs
    if sample.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a request with {sample.finish_reason!r}")
    logprobs = None
    if sample.logprobs:
        logprobs = tuple(at[token].logprob for at, token in zip(sample.logprobs, sample.token_ids, strict=True))
    return EngineOutput(
        number=int(output.request_id),
        token_ids=tuple(sample.token_ids),
        reason=sample.finish_reason,
        text=sample.text,
        stop_reason=sample.stop_reason,
        logprobs=logprobs,
    )


def run_all(engines: Sequence[VLLMEngine]) -> Iterator[Any]:
    """Step all engines until none has work left; yields each request as it finishes.

    Engines in processes of their own work on while another one's results are waited for.
    """
    while any(engine.busy for engine in engines):
        for engine in engines:
            if engine.busy:
                yield from engine.step()
