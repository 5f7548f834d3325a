"""The settings of a vLLM engine. Nothing of vLLM is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cs336_sft.errors import ConfigError


@dataclass(frozen=True)
class VLLMConfig:
    """How to start an engine. Names are vLLM's where it has one.

    Attributes:
        max_model_len: tokens of prompt and answer together that the engine can hold; None: the model's own context,
            at most 4096.
        dtype: of the engine's weights; ``"auto"`` is float32 on a CPU and bfloat16 on a GPU, whatever the trainer uses.
        gpu_memory_utilization: share of the card that the engine takes, weights included. Checked against what is free
            when it starts. Beside a trainer on the same card give 0.3 or so.
        kv_cache_memory_bytes: the key-value cache in bytes, in place of what ``gpu_memory_utilization`` would leave
            for it; None on a CPU: 1 GiB.
        enforce_eager: no compilation, no CUDA graphs; None: True on a CPU, False on a GPU.
        max_num_seqs: sequences generated at once; None: vLLM's default.
        tensor_parallel_size: GPUs that share one copy of the weights.
        data_parallel_size: copies of the engine, each in a process of its own; prompts are dealt among them.
        own_process: run the engine outside this process. Needed for several copies, for a GPU other than the first
            and beside a trainer in several processes, and then done without being asked; weights then go through a
            file. The script needs ``if __name__ == "__main__":``.
        devices: numbers of the GPUs for the engine's processes; None: the first ones.
        sleep: the engine can free the card while it is not needed (`VLLMSampler.sleep`); not on a CPU.
        auto_sleep: and does so after every `generate`.
        check_parity: after every weight sync compare greedy tokens and log-probabilities with the model's own.
        seed: vLLM's own; samples do not depend on it.

    Raises:
        ConfigError: a field out of range; the message names it.

    >>> VLLMConfig(data_parallel_size=2).separate
    True
    """

    max_model_len: int | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    gpu_memory_utilization: float = 0.85
    kv_cache_memory_bytes: int | None = None
    enforce_eager: bool | None = None
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    own_process: bool = False
    devices: tuple[int, ...] | None = None
    sleep: bool = False
    auto_sleep: bool = False
    check_parity: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        def demand(ok: bool, field: str, remedy: str) -> None:
            if not ok:
                raise ConfigError(f"VLLMConfig.{field} is {getattr(self, field)!r}", remedy)

        for field in ("max_model_len", "kv_cache_memory_bytes", "max_num_seqs"):
            demand(getattr(self, field) is None or getattr(self, field) >= 1, field, "give a number from 1, or None")
        for field in ("tensor_parallel_size", "data_parallel_size"):
            demand(getattr(self, field) >= 1, field, "give 1 or more")
        demand(0 < self.gpu_memory_utilization <= 1, "gpu_memory_utilization", "give a number above 0 and at most 1")
        demand(self.dtype in ("auto", "float32", "bfloat16", "float16"), "dtype", "give auto, float32 or bfloat16")
        processes = self.tensor_parallel_size * self.data_parallel_size
        demand(
            self.devices is None or len(set(self.devices)) == len(self.devices) == processes,
            "devices",
            f"give {processes} different numbers (tensor_parallel_size times data_parallel_size)",
        )

    @property
    def can_sleep(self) -> bool:
        return self.sleep or self.auto_sleep

    @property
    def separate(self) -> bool:
        """Whether these settings need an engine outside this process."""
        return self.own_process or self.data_parallel_size > 1 or self.devices not in (None, (0,))

    def device_groups(self) -> list[tuple[int, ...] | None]:
        """The GPUs of each copy of the engine; None where it sees all of them.

        >>> VLLMConfig(tensor_parallel_size=2, data_parallel_size=2).device_groups()
        [(0, 1), (2, 3)]
        """
        if self.devices is None and self.data_parallel_size == 1:
            return [None]
        size = self.tensor_parallel_size
        devices = self.devices or tuple(range(size * self.data_parallel_size))
        return [devices[start : start + size] for start in range(0, len(devices), size)]
