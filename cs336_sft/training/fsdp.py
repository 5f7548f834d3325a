"""Fully sharded training (FSDP2): every process holds a part of the weights, gradients and optimizer states.

A sharded copy is trained. The caller's model stays whole on the CPU, and ``collect`` brings the weights back into it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cs336_sft.errors import ConfigError
from cs336_sft.records import Batch
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.distributed import DataParallel, Trained, idle_batch
from cs336_sft.training.graphs import shorten_norms
from cs336_sft.training.step import make_optimizer
from cs336_sft.utils import distributed as processes

TOGETHER = 7  # layers that are gathered at once: Python's part of a gathering takes longer than a layer does


def is_requested() -> bool:
    """Return whether ``accelerate launch`` asks for FSDP2."""
    kinds = ("DEEPSPEED", "MEGATRON_LM", "FSDP")
    used = [kind for kind in kinds if os.environ.get(f"ACCELERATE_USE_{kind}", "false").lower() in ("1", "true")]
    version = os.environ.get("FSDP_VERSION", "1")
    if used and (used != ["FSDP"] or version != "2"):
        problem = f"accelerate was launched with {f'FSDP version {version}' if used == ['FSDP'] else used[0]}"
        raise ConfigError(problem, "launch it with --fsdp_version 2 or plain data parallelism: see recipes/accelerate")
    return bool(used)


class FullySharded(DataParallel):
    """Several processes, each with a part of a copy of the model (FSDP2)."""

    saves_alone = False  # all processes must collect the shards

    def wrap(self, model: torch.nn.Module, optimizer: torch.optim.AdamW, config: SFTConfig) -> Trained:
        """Return a sharded copy of the model, and an optimizer of it with the same states."""
        self._model, self._optimizer = model, optimizer
        self._sharded_model = copy.deepcopy(model)
        shorten_norms(self._sharded_model)
        mesh = init_device_mesh(self.device.type, (self.size,))
        bf16 = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
        policy = MixedPrecisionPolicy(**bf16 if config.mixed_precision == "bf16" else {})
        names = set(getattr(model, "_no_split_modules", None) or ())
        layers = [part for part in self._sharded_model.modules() if type(part).__name__ in names]
        again = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true") == "true"  # of the file for `accelerate launch`
        for first in range(0, len(layers), TOGETHER):
            together = layers[first : first + TOGETHER]
            fully_shard(together, mesh=mesh, mp_policy=policy, reshard_after_forward=again)
        # The root holds embedding and head. The loss reads the head after the model's forward: it must be whole then.
        fully_shard(self._sharded_model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self._sharded_optimizer = make_optimizer(self._sharded_model, config)
        sharded = dict(self._sharded_model.named_parameters())
        for name, parameter in model.named_parameters():
            twin = sharded[name]
            for field, value in optimizer.state.get(parameter, {}).items():
                value = value.to(self.device)
                is_whole = value.shape == parameter.shape  # not the number of steps
                shard = distribute_tensor(value, twin.device_mesh, twin.placements) if is_whole else value.clone()
                self._sharded_optimizer.state[twin][field] = shard
        optimizer.state.clear()  # the shards are enough until the next `collect`
        model.to("cpu")
        return self._sharded_model, self._sharded_optimizer

    def in_turn(self, model: torch.nn.Module, microbatches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the microbatches, equally many in every process."""
        most = max(processes.gather(len(microbatches)))  # each forward pass needs the shards of all processes
        microbatches = [*microbatches, *[idle_batch()] * (most - len(microbatches))]
        for number, batch in enumerate(microbatches, start=1):
            model.set_requires_gradient_sync(number == most)
            yield batch

    def autocast(self, config: SFTConfig) -> AbstractContextManager[Any]:
        """Do nothing: the sharded copy casts its parameters itself."""
        return nullcontext()

    def collect(self, *, optimizer: bool) -> None:
        """Update the caller's model from the shards, in all processes together."""
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, parameter in self._sharded_model.named_parameters():
                if parameter.requires_grad:
                    own[name].copy_(_whole(parameter.detach()))
                for field, value in self._sharded_optimizer.state.get(parameter, {}).items():
                    whole = _whole(value)
                    if optimizer:
                        self._optimizer.state[own[name]][field] = whole.cpu()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Have the caller's model on the device, with the trained weights."""
        self.collect(optimizer=False)
        self._model.to(self.device)
        try:
            yield
        finally:
            self._model.to("cpu")

    def close(self) -> None:
        self._model.to(self.device)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
