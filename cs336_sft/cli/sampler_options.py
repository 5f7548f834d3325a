"""``--sampler hf|vllm`` and the engine's settings, for the commands that generate."""

from __future__ import annotations

import argparse
from typing import Any

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError
from cs336_sft.generation.vllm_backend.config import VLLMConfig

_GIB = 2**30


def add_sampler(parser: argparse.ArgumentParser, *, gpu_memory_utilization: float) -> None:
    """The options; ``gpu_memory_utilization`` is the default share of the card."""
    group = parser.add_argument_group("generation with vLLM (README, section vLLM)")
    group.add_argument("--sampler", choices=("hf", "vllm"), default="hf", help="the generation engine (hf)")
    option = group.add_argument
    option("--max-model-len", type=common.positive_int, help="tokens of prompt and answer that the engine holds")
    option("--vllm-dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the engine's weights")
    option("--gpu-memory-utilization", type=common.positive_float, metavar="SHARE", help=f"{gpu_memory_utilization:g}")
    option("--kv-cache-gib", type=common.positive_float, metavar="GIB", help="key-value cache, in place of a share")
    option("--tensor-parallel", type=common.positive_int, metavar="N", help="GPUs a copy of the weights is shared by")
    option("--data-parallel", type=common.positive_int, metavar="N", help="copies of the engine")
    option("--sleep", action="store_true", default=None, help="free the card between evaluations")
    option("--check-parity", action="store_true", default=None, help="compare with the model after every weight sync")
    parser.set_defaults(default_gpu_memory_utilization=gpu_memory_utilization)


def vllm_config(args: argparse.Namespace, limit: int) -> VLLMConfig | None:
    """The engine's settings, or None for the Hugging Face sampler.

    Raises:
        ConfigError: an option of vLLM's without ``--sampler vllm``, or a limit that cannot fit; before anything loads.
    """
    given: dict[str, Any] = {
        "max_model_len": args.max_model_len,
        "dtype": args.vllm_dtype,
        "gpu_memory_utilization": args.gpu_memory_utilization,
        "kv_cache_memory_bytes": args.kv_cache_gib and int(args.kv_cache_gib * _GIB),
        "tensor_parallel_size": args.tensor_parallel,
        "data_parallel_size": args.data_parallel,
        "auto_sleep": args.sleep,
        "check_parity": args.check_parity,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if args.sampler == "hf":
        if given:
            raise ConfigError(f"{next(iter(given))} is a setting of vLLM", "add --sampler vllm, or leave it out")
        return None
    from cs336_sft.generation.vllm_backend.runtime import import_vllm

    config = VLLMConfig(**{"gpu_memory_utilization": args.default_gpu_memory_utilization} | given)
    if config.max_model_len is not None and limit >= config.max_model_len:
        raise ConfigError(
            f"the limit of {limit} tokens leaves no room for a prompt in max_model_len {config.max_model_len}",
            "raise --max-model-len, or lower --limit",
        )
    import_vllm()
    return config
