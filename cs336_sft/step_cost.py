"""What one optimizer step costs: tokens per second, and the memory that its forward pass keeps for its backward pass.

    cost = measure_step(model, examples[:16], pad_id, micro_batch_size=4)

The weights, gradients and AdamW's averages are the same for every batch size; what grows with the microbatch are the
activations. On the CPU they are counted tensor by tensor, exactly; on a GPU the allocator's peak is given too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from cs336_sft.batching import padding_share, split_microbatches
from cs336_sft.errors import ConfigError
from cs336_sft.losses import token_weighted_loss
from cs336_sft.records import Batch, Example
from cs336_sft.sft_step import response_log_probs
from cs336_sft.tokenization import collate, count_targets

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class StepCost:
    """One optimizer step's forward and backward passes, measured.

    Attributes:
        batch_size, micro_batch_size: sequences a step, and at once.
        microbatches: how many it took.
        tokens: real tokens of the step.
        padding: share of the padded positions that are padding.
        loss: nats per target token, of the whole step.
        seconds: median over the repetitions.
        saved_bytes: activations that the largest microbatch keeps for its backward pass; parameters not counted.
        peak_bytes: the GPU allocator's peak above what was there before; None on the CPU.
    """

    batch_size: int
    micro_batch_size: int
    microbatches: int
    tokens: int
    padding: float
    loss: float
    seconds: float
    saved_bytes: int
    peak_bytes: int | None

    @property
    def tokens_per_second(self) -> float:
        """Real tokens a second; padding earns nothing."""
        return self.tokens / self.seconds


def measure_step(
    model: PreTrainedModel,
    examples: Sequence[Example],
    pad_id: int,
    *,
    micro_batch_size: int | None = None,
    repeats: int = 3,
) -> StepCost:
    """Gradients of one optimizer step on ``examples``, without the update; the last ones are left in ``.grad``.

    Args:
        examples: those of the step.
        micro_batch_size: sequences that go through the model at once, at most; None: all.
        repeats: timed repetitions, after one that is not timed and counts the memory.

    Raises:
        ConfigError: no example, or a number below 1.
    """
    micro = len(examples) if micro_batch_size is None else micro_batch_size
    if min(len(examples), micro, repeats) < 1:
        raise ConfigError(
            f"{len(examples)} examples, micro_batch_size {micro}, repeats {repeats}", "give at least 1 of each"
        )
    lengths = [len(example) for example in examples]
    parts = split_microbatches(range(len(examples)), lengths, max_sequences=micro)
    batches = [
        Batch(**{name: tensor.to(model.device) for name, tensor in vars(batch).items()})
        for batch in (collate([examples[index] for index in part], pad_id) for part in parts)
    ]
    targets = count_targets(examples)

    def forward(batch: Batch) -> torch.Tensor:
        log_probs, mask, _ = response_log_probs(model, batch)
        return token_weighted_loss(log_probs, mask, targets)

    def step() -> float:
        model.zero_grad(set_to_none=True)
        loss = 0.0
        for batch in batches:
            part = forward(batch)
            part.backward()
            loss += float(part.detach())
        return loss

    cuda = model.device.type == "cuda"
    model.zero_grad(set_to_none=True)
    saved = max(saved_bytes(model, lambda batch=batch: forward(batch)) for batch in batches)
    if cuda:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    loss = step()
    peak = torch.cuda.max_memory_allocated() - before if cuda else None
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return StepCost(
        batch_size=len(examples),
        micro_batch_size=micro,
        microbatches=len(parts),
        tokens=sum(lengths),
        padding=padding_share(parts, lengths),
        loss=loss,
        seconds=median(seconds),
        saved_bytes=saved,
        peak_bytes=peak,
    )


def saved_bytes(model: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that autograd keeps after a forward pass, each piece of memory once; parameters not counted.

    >>> layer = torch.nn.Linear(4, 4)
    >>> x = torch.ones(2, 4)
    >>> saved_bytes(layer, lambda: layer(x).exp().sum())  # x for the weight's gradient, exp(...) for its own: 2 * 32
    64
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = forward()  # while it lives nothing that was saved is freed, so that no address comes twice
    del loss
    return sum(kept.values())
