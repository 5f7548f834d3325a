"""Fully sharded training (FSDP2): every process holds a part of the weights, gradients and optimizer states.

What is sharded is a copy. The caller's model stays whole and waits on the CPU; ``gather`` brings weights and optimizer
states back into it for an evaluation, a checkpoint, or the end. So all that reads or writes a model need not know of
sharding, and every process can generate on its own. The price: the whole model in each process's CPU memory, and on
its device while it generates.
"""

from __future__ import annotations

import copy
import os
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from transformers import PreTrainedModel


def is_asked_for(accelerator: Accelerator) -> bool:
    """Whether accelerate was launched with FSDP (``--use_fsdp --fsdp_version 2``, or the environment variables).

    accelerate itself knows it on GPUs only; here a CPU will do.

    Raises:
        ConfigError: the launch asks for another way of sharding: FSDP1, DeepSpeed, Megatron.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true") and accelerator.num_processes > 1
    other = {"DEEPSPEED", "MEGATRON_LM"} & {str(accelerator.distributed_type).rpartition(".")[2]}
    version = os.environ.get("FSDP_VERSION", "1")
    if other or (asked and version != "2"):
        raise ConfigError(
            f"accelerate was launched with {other.pop() if other else f'FSDP version {version}'}",
            "launch it with --fsdp_version 2 or plain data parallelism: see recipes/accelerate",
        )
    return asked


class ShardedCopy:
    """A sharded copy of a model and its optimizer.

    Attributes:
        module: the copy, to be trained.
        optimizer: AdamW over its parameters, with the states of the optimizer it was made from.
    """

    def __init__(
        self, model: PreTrainedModel, optimizer: torch.optim.AdamW, device: torch.device, *, bf16: bool
    ) -> None:
        self._model, self._whole_optimizer, self._device = model, optimizer, device
        self.module = copy.deepcopy(model)
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        policy = (
            MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            if bf16
            else MixedPrecisionPolicy()
        )
        layers = set(getattr(model, "_no_split_modules", None) or ())
        for part in self.module.modules():
            if type(part).__name__ in layers:
                fully_shard(part, mesh=mesh, mp_policy=policy)
        # The root holds embedding and head. The loss reads the head after the model's forward: it must be whole then.
        fully_shard(self.module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        self.optimizer = self._sharded_optimizer()
        model.to("cpu")

    def gather(self, *, optimizer: bool) -> None:
        """Bring the weights into the caller's model. Every process must call it.

        Args:
            optimizer: its states too (the same in every process).
        """
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if parameter.requires_grad:
                    own[name].copy_(_whole(parameter.detach()))
            for name, parameter in self.module.named_parameters():
                for field, value in self.optimizer.state.get(parameter, {}).items():
                    whole = _whole(value)
                    if optimizer:
                        self._whole_optimizer.state[own[name]][field] = whole.cpu()

    @contextmanager
    def model_on_device(self) -> Iterator[None]:
        """The caller's model on the device, for as long as something is generated with it."""
        self._model.to(self._device)
        try:
            yield
        finally:
            self._model.to("cpu")

    def give_back(self) -> None:
        """At the end of a run: the caller's model is where it was."""
        self._model.to(self._device)

    def _sharded_optimizer(self) -> torch.optim.AdamW:
        names = {parameter: name for name, parameter in self._model.named_parameters()}
        sharded = dict(self.module.named_parameters())
        groups = [
            {**group, "params": [sharded[names[parameter]] for parameter in group["params"]]}
            for group in self._whole_optimizer.param_groups
        ]
        optimizer = torch.optim.AdamW(groups)
        for parameter, state in self._whole_optimizer.state.items():
            twin = sharded[names[parameter]]
            optimizer.state[twin] = {
                field: distribute_tensor(value.to(self._device), twin.device_mesh, twin.placements)
                if value.shape == parameter.shape
                else value.clone()
                for field, value in state.items()
            }
        self._whole_optimizer.state.clear()  # the shards are enough until the next gather
        return optimizer


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether a model's weights lie in pieces with several processes.

    >>> is_sharded(torch.nn.Linear(2, 1))
    False
    """
    return isinstance(model, FSDPModule)


def no_sync(accelerator: Accelerator, model: torch.nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Processes exchange gradients once, in the backward of a step's last microbatch."""
    if is_sharded(model):
        model.set_requires_gradient_sync(last)
        return nullcontext()
    return nullcontext() if last else accelerator.no_sync(model)


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
