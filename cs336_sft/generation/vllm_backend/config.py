"""The settings of a vLLM engine. Nothing of vLLM is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cs336_sft.utils.validation import check_choice, check_counts, check_field, check_flags, is_number


@dataclass(frozen=True)
class VLLMConfig:
    """How to start an engine. Names are vLLM's where possible."""

    max_model_len: int | None = None  # tokens of prompt and response; None: the model's own context, at most 4096
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # "auto": float32 on a CPU, else bfloat16
    gpu_memory_utilization: float = 0.85  # fraction of the card, weights included; with a trainer on it about 0.3
    kv_cache_memory_bytes: int | None = None  # of the key-value cache, in place of what is left; None on a CPU: 1 GiB
    enforce_eager: bool | None = None  # no compilation and no CUDA graphs; None: True on a CPU, False on a GPU
    sleep: bool = False  # free the card after every `generate`; the weights wait in the host's memory
    seed: int = 0  # vLLM's own, for requests without a seed: those of `VLLMSampler` have one

    def __post_init__(self) -> None:
        check_counts(self, "max_model_len", "kv_cache_memory_bytes", optional=True)
        check_flags(self, "sleep")
        check_choice(self, "dtype", ("auto", "float32", "bfloat16", "float16"))
        fraction = is_number(self.gpu_memory_utilization) and 0 < self.gpu_memory_utilization <= 1
        check_field(fraction, self, "gpu_memory_utilization", "give a number above 0 and at most 1")
