"""One optimizer step of supervised fine-tuning: microbatches in, changed weights and a record of numbers out."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.batching import deal, split_microbatches
from cs336_sft.errors import CourseError
from cs336_sft.model.chunked_head import one_pass_loss
from cs336_sft.model.output_head import run_to_head
from cs336_sft.records import Batch, Example
from cs336_sft.tokenization import collate
from cs336_sft.training import fsdp as sharding
from cs336_sft.training.config import SFTConfig
from cs336_sft.utils.files import Record

if TYPE_CHECKING:
    from accelerate import Accelerator


class NonFiniteLossError(CourseError):
    """The loss or the gradient became nan or infinite.

    Attributes:
        step: the step, whose update was not made.
        indices: the examples of the step, as indices into the training examples.
    """

    def __init__(self, step: int, indices: Sequence[int], numbers: str) -> None:
        super().__init__(
            f"step {step}: {numbers}; the weights are those of step {step - 1}",
            "lower learning_rate or lengthen warmup; if it happens at step 1, look at the examples and the weights",
        )
        self.step = step
        self.indices = tuple(indices)


def make_optimizer(model: torch.nn.Module, config: SFTConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained. Weight decay is for matrices: biases and norms have another scale.

    >>> optimizer = make_optimizer(torch.nn.Linear(2, 1), SFTConfig(weight_decay=0.1))
    >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    [(0.1, 1), (0.0, 1)]
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    # fused: one pass over memory for the whole update instead of a dozen.
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=config.betas, fused=True
    )


def response_loss(
    model: torch.nn.Module, batch: Batch, weight: float, device: torch.device, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """``-weight * sum(log_probs)`` over the response tokens of a batch, computed only where they are.

    The log-probabilities are those of ``get_response_log_probs`` under the mask. The output head, the largest matrix
    of a small model, runs for the response positions only and makes its gradients in the forward (``one_pass_loss``).
    And no attention mask is built: with padding on the right, causal attention never lets a real token see a padded
    one.

    Args:
        model: a Hugging Face causal language model.
        batch: tensors of ``[B, T]``, padded on the right, on the CPU. N of its labels are response tokens.
        weight: what each of these counts.
        device: where the model is.
        with_entropy: also give the entropy of each next-token distribution.

    Returns:
        ``(loss, log_probs, entropy)``: a scalar to call ``backward`` on; ``[N]`` in nats without a graph; the same, or
        None unless asked for.
    """
    # Found on the CPU: on a GPU, asking for their number would make the CPU wait for all work that is under way.
    positions = batch.response_mask.flatten().nonzero().squeeze(-1)  # [N]
    labels = batch.labels.flatten()[positions].to(device, non_blocking=True)
    hidden, head = run_to_head(model, {"input_ids": batch.input_ids.to(device, non_blocking=True)})  # [B, T, H]
    hidden = hidden.flatten(0, 1).index_select(0, positions.to(device, non_blocking=True))  # [N, H]
    return one_pass_loss(hidden, head, labels, weight, with_entropy=with_entropy)


class SFTStep:
    """Makes optimizer steps; holds what stays the same between them."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        examples: Sequence[Example],
        config: SFTConfig,
        pad_id: int,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.examples, self.config, self.pad_id = examples, config, pad_id
        self.lengths = [len(example) for example in examples]
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def run(self, step: int, indices: Sequence[int], lr: float) -> Record:
        """Update the weights on the examples ``indices`` (the whole step's, over all processes).

        Raises:
            NonFiniteLossError: loss or gradient is nan or infinite; the weights were not changed.
        """
        began = time.perf_counter()
        config, world_size = self.config, self.accelerator.num_processes
        torch.manual_seed(_step_seed(config.seed, step, self.accelerator.process_index))  # for dropout
        with_entropy = config.entropy_every is not None and step % config.entropy_every == 0

        microbatches = self._microbatches(indices)
        n_own = sum(bool(batch.response_mask.any()) for batch in microbatches) or 1  # without those that count nothing
        # The divisor is the number of target tokens of the whole step: of all microbatches and all processes.
        targets = self._count_over_processes(sum(int(batch.response_mask.sum()) for batch in microbatches))
        totals = torch.zeros(3, device=self.accelerator.device)  # mean NLL, handout's loss, mean entropy
        for number, batch in enumerate(microbatches, start=1):
            with sharding.no_sync(self.accelerator, self.model, last=number == len(microbatches)):
                totals += self._microbatch(batch, targets, n_own, with_entropy)
        norm = self.accelerator.clip_grad_norm_(self._parameters, config.max_grad_norm or math.inf)
        totals = self._sum_over_processes(totals)
        loss, handout_loss, entropy, grad_norm = [*totals.tolist(), float(norm)]
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLossError(step, indices, f"loss {loss}, gradient norm {grad_norm}")

        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        seconds = time.perf_counter() - began
        tokens = sum(self.lengths[index] for index in indices)
        record: Record = {
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "clipped": int(config.max_grad_norm is not None and grad_norm > config.max_grad_norm),
            "target_tokens": targets,
            "tokens": tokens,
        }
        if with_entropy:
            record["entropy"] = entropy
        if config.normalization == "handout":
            record["handout_loss"] = handout_loss / world_size
        return record | {"seconds": seconds, "tokens_per_second": tokens / seconds}

    def _microbatch(self, batch: Batch, targets: int, n_microbatches: int, with_entropy: bool) -> torch.Tensor:
        """Forward and backward. Returns this microbatch's share of the step's numbers, ``[3]``."""
        config = self.config
        if config.normalization == "handout":  # what sft_microbatch_train_step divides by
            weight = 1.0 / (len(batch.input_ids) * config.normalize_constant * n_microbatches)
        else:
            # DistributedDataParallel averages gradients over the processes; ours are to be added up.
            weight = self.accelerator.num_processes / targets
        loss, log_probs, entropy = response_loss(self.model, batch, weight, self.accelerator.device, with_entropy)
        self.accelerator.backward(loss)
        nll = -log_probs.sum() / targets
        mean_entropy = nll.new_zeros(()) if entropy is None else entropy.sum() / targets
        return torch.stack([nll.float(), loss.detach().float(), mean_entropy.float()])

    def _microbatches(self, indices: Sequence[int]) -> list[Batch]:
        """This process's share of the step, on the CPU.

        Every process must take part in the exchange of gradients, and of shards in each microbatch. So one without a
        share of its own, or with fewer microbatches than another where weights are sharded, goes through the motions
        with an example that counts nothing.
        """
        rank, world_size = self.accelerator.process_index, self.accelerator.num_processes
        parts = self._split(indices, rank)
        batches = [collate([self.examples[index] for index in part], self.pad_id) for part in parts]
        needed = 1
        if sharding.is_sharded(self.model):
            needed = max(len(self._split(indices, other)) for other in range(world_size))
        if len(batches) < needed:
            idle = collate([self.examples[indices[0]]], self.pad_id)
            idle = replace(idle, response_mask=torch.zeros_like(idle.response_mask))
            batches += [idle] * (needed - len(batches))
        return batches

    def _split(self, indices: Sequence[int], rank: int) -> list[tuple[int, ...]]:
        """The microbatches of one process."""
        return split_microbatches(
            deal(indices, self.lengths, rank, self.accelerator.num_processes),
            self.lengths,
            max_sequences=self.config.micro_batch_size,
            max_tokens=self.config.micro_batch_tokens,
        )

    def _count_over_processes(self, count: int) -> int:
        if self.accelerator.num_processes == 1:
            return count
        return int(self._sum_over_processes(torch.tensor(count, device=self.accelerator.device)))

    def _sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value, "sum") if self.accelerator.num_processes > 1 else value


def _step_seed(seed: int, step: int, process: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()[:7])
