"""One optimizer step of SFT: microbatches go in, the weights change, a record of numbers comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cs336_sft.errors import CourseError
from cs336_sft.losses import sft_loss
from cs336_sft.records import Batch, Example
from cs336_sft.tokenization import collate
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.distributed import SingleProcess
from cs336_sft.utils.files import JSONDict


class NonFiniteLossError(CourseError):
    """The loss or the gradient became nan or infinite, and the update was not made."""

    def __init__(self, step: int, problem: str) -> None:
        super().__init__(
            f"step {step}: {problem}; the weights are those of step {step - 1}",
            "lower learning_rate or lengthen warmup; if it happens at step 1, look at the examples and the weights",
        )


def make_optimizer(model: torch.nn.Module, config: SFTConfig) -> torch.optim.AdamW:
    """Make AdamW for the trained parameters, with weight decay on matrices only.

    >>> optimizer = make_optimizer(torch.nn.Linear(2, 1), SFTConfig(weight_decay=0.1))
    >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    [(0.1, 1), (0.0, 1)]
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},  # biases and norms
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)  # one pass over memory


def make_microbatches(
    examples: Sequence[Example], indices: Sequence[int], micro_batch_size: int | None, pad_id: int
) -> list[Batch]:
    """Cut a step's examples into microbatches, in the order given.

    >>> examples = [Example((1,), (2,)), Example((1,), (2, 3)), Example((1, 2), (3, 4))]
    >>> [tuple(batch.input_ids.shape) for batch in make_microbatches(examples, [2, 1, 0], 2, pad_id=0)]
    [(2, 3), (1, 1)]
    """
    size = micro_batch_size or max(1, len(indices))
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    return [collate([examples[index] for index in part], pad_id) for part in parts]


def optimizer_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    microbatches: Sequence[Batch],
    config: SFTConfig,
    step: int,
    lr: float,
    group: SingleProcess | None = None,
) -> JSONDict:
    """Update the weights once and return loss, learning rate and gradient norm.

    ``microbatches`` are this process's part of step number ``step``. ``group`` are the processes that share the step.
    Raises NonFiniteLossError: loss or gradient is nan or infinite; the weights were not changed.
    """
    group = group or SingleProcess()
    model.train()
    torch.manual_seed(group.seed(config.seed, step))  # for dropout
    targets = group.sum(sum(int(batch.response_mask.sum()) for batch in microbatches))  # of the whole step
    total_nll = 0.0
    for batch in group.in_turn(model, microbatches):
        if config.normalization == "handout":
            divisor = len(batch.input_ids) * config.normalize_constant * len(microbatches)
        else:
            divisor = targets / group.size  # gradients are averaged over the processes, and must be summed
        with group.autocast(config):
            loss, log_probs = sft_loss(model, batch, divisor, group.forward)  # scalar, [N]
        loss.backward()  # adds to the gradients of the microbatches before
        total_nll = total_nll - log_probs.sum()
        del loss  # with it the autograd graph, before the next one is made

    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    loss = float(group.sum(total_nll)) / targets  # nats per target token, whatever the normalization
    grad_norm = float(norm)  # before clipping
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        group.finish_update(optimizer)
        raise NonFiniteLossError(step, f"loss {loss}, gradient norm {grad_norm}")
    clipped = config.max_grad_norm is not None and grad_norm > config.max_grad_norm
    if clipped:
        torch.nn.utils.clip_grads_with_norm_(parameters, config.max_grad_norm, norm)
    for parameter_group in optimizer.param_groups:
        parameter_group["lr"] = lr
    optimizer.step()
    group.finish_update(optimizer)
    return {
        "loss": loss,
        "lr": optimizer.param_groups[0]["lr"],
        "grad_norm": grad_norm,
        "clipped": int(clipped),
        "target_tokens": targets,
    }
