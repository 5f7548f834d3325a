"""The settings of a vLLM engine. Nothing of vLLM is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cs336_sft.utils.validation import check_choice, check_counts, check_field, check_flags, is_number


@dataclass(frozen=True)
class VLLMConfig:
    """How to start an engine. Names are vLLM's where possible.

    Attributes:
        max_model_len: tokens of prompt and response together; None: the model's own context, at most 4096.
        dtype: type of the engine's weights; ``"auto"`` is float32 on a CPU and bfloat16 on a GPU.
        gpu_memory_utilization: fraction of the card that the engine takes, weights included. For an engine and a
            trainer on one card give about 0.3.
        kv_cache_memory_bytes: size of the key-value cache, instead of what is left of that; None on a CPU: 1 GiB.
        enforce_eager: no compilation and no CUDA graphs; None: True on a CPU, False on a GPU.
        sleep: free the card after every `generate`; the weights wait in the host's memory. No effect on a CPU.
        seed: vLLM's own, for requests without a seed; the samples of `VLLMSampler` do not depend on it.

    Raises ConfigError: a field is out of range; the message names it.
    """

    max_model_len: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: float = 0.85
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool | None = None
    sleep: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "max_model_len", "kv_cache_memory_bytes", optional=True)
        check_flags(self, "sleep")
        check_choice(self, "dtype", ("auto", "float32", "bfloat16", "float16"))
        fraction = is_number(self.gpu_memory_utilization) and 0 < self.gpu_memory_utilization <= 1
        check_field(fraction, self, "gpu_memory_utilization", "give a number above 0 and at most 1")
