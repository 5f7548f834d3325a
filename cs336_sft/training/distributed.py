"""Where a run computes: in one process, or in several that share each optimizer step.

The training loop asks a ``SingleProcess`` for what several (``DataParallel``, ``fsdp.FullySharded``) do differently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from cs336_sft.data.batching import deal
from cs336_sft.losses import run_to_response
from cs336_sft.records import Batch, Example
from cs336_sft.tokenization import collate
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.graphs import GraphedForward, can_be_graphed
from cs336_sft.utils import distributed as processes

Trained = tuple[torch.nn.Module, torch.optim.AdamW]


class SingleProcess:
    """One process, which does everything itself; the main one of several writes the files."""

    saves_alone = True  # whether the main process can save a checkpoint without the others
    exchange: Callable[[torch.Tensor], Any] | None = None  # begins to average a tensor over the processes

    def __init__(self) -> None:
        self.forward: Callable[..., Any] = run_to_response  # of a microbatch, up to the output head
        self.rank, self.size, self.is_main = processes.rank(), processes.world_size(), processes.is_main()
        self.device = processes.own_device()

    def seed(self, seed: int, step: int) -> int:
        """Return the seed of a step's dropout in this process."""
        return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{self.rank}".encode()).digest()[:7])

    def own_part(self, indices: Sequence[int], lengths: Sequence[int]) -> tuple[int, ...]:
        """Return this process's examples of a step, longest first."""
        return deal(indices, lengths, self.rank, self.size)  # memory that is too small shows in the first microbatch

    def in_turn(self, model: torch.nn.Module, microbatches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the microbatches of a step, each for one forward and backward pass."""
        yield from microbatches

    def autocast(self, config: SFTConfig) -> AbstractContextManager[Any]:
        """Compute in ``config.mixed_precision``."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.mixed_precision == "bf16")

    def sum(self, value: Any) -> Any:
        """Sum a number or a scalar tensor over the processes."""
        return value

    def wait(self) -> None:
        """Wait until every process is here."""

    def wrap(self, model: torch.nn.Module, optimizer: torch.optim.AdamW, config: SFTConfig) -> Trained:
        """Return the model and the optimizer to train with."""
        dtype = torch.bfloat16 if config.mixed_precision == "bf16" else None
        if can_be_graphed(model, dtype):
            self.forward = GraphedForward(model, dtype, self.exchange)
        return model, optimizer

    def finish_update(self, optimizer: torch.optim.Optimizer) -> None:
        """Free the gradients, or zero those of graphs and renew their weights."""
        graphed = self.forward is not run_to_response and not self.forward.failed
        optimizer.zero_grad(set_to_none=not graphed)
        if graphed:
            self.forward.renew()

    def collect(self, *, optimizer: bool) -> None:
        """Update the caller's model (and optimizer) from the trained ones."""

    def evaluating(self) -> AbstractContextManager[Any]:
        """Have the caller's model on the device."""
        return nullcontext()

    def close(self) -> None:
        """Leave the caller's model on the device, without traces of training."""
        if self.forward is not run_to_response:
            self.forward.close()
            self.forward = run_to_response


class DataParallel(SingleProcess):
    """Several processes, each with the whole model (DDP) and its part of a step's examples."""

    def in_turn(self, model: torch.nn.Module, microbatches: Sequence[Batch]) -> Iterator[Batch]:
        """Yield the microbatches, and exchange gradients in the last one."""
        microbatches = microbatches or [idle_batch()]  # every process must take part in the exchange
        graphed = self.forward is not run_to_response
        for number, batch in enumerate(microbatches, start=1):
            last = number == len(microbatches)
            if graphed:
                self.forward.exchanges = last
            with nullcontext() if last or graphed else model.no_sync():
                yield batch
        if graphed:
            self.forward.finish_exchange()

    def exchange(self, tensor: torch.Tensor) -> Any:
        """Begin to average a tensor over the processes, in place."""
        if self.device.type == "cuda":
            return torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.AVG, async_op=True)
        return torch.distributed.all_reduce(tensor.div_(self.size), async_op=True)  # gloo knows no average

    def sum(self, value: Any) -> Any:
        total = torch.as_tensor(value, device=self.device).clone()
        torch.distributed.all_reduce(total)
        return total if isinstance(value, torch.Tensor) else total.item()

    def wait(self) -> None:
        processes.gather(None)

    def wrap(self, model: torch.nn.Module, optimizer: torch.optim.AdamW, config: SFTConfig) -> Trained:
        found = super().wrap(model, optimizer, config)
        if self.forward is not run_to_response:  # its graphs exchange the gradients
            for tensor in (*model.parameters(), *model.buffers()):
                torch.distributed.broadcast(tensor.data, 0)
            return found
        devices = [self.device] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices), optimizer


def idle_batch() -> Batch:
    """Make a microbatch without targets, for a process that has no examples left."""
    return collate([Example((0, 0), ())], pad_id=0)
