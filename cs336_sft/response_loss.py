"""The loss of a model on examples that it is not trained on: the other half of a training curve.

Accuracy counts problems, and a few hundred problems are coarse. The loss counts every token of every reference answer,
so it shows earlier and with less noise when training begins to learn the training examples by heart. It costs one
forward pass, where accuracy costs a generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cs336_sft.batching import split_microbatches
from cs336_sft.errors import DataError
from cs336_sft.records import Batch, Example
from cs336_sft.sft_step import response_log_probs
from cs336_sft.tokenization import collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def response_loss(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, *, batch_tokens: int = 8192
) -> float:
    """Mean negative log-likelihood of the response tokens, in nats: what ``train_sft`` logs as ``loss``.

    Every token weighs alike, whatever example it is in, and the number does not depend on ``batch_tokens``.

    Args:
        model: used in evaluation mode; left in the mode it was in.
        examples: reference answers with their prompts, not those of the training.
        pad_id: see ``tokenization.padding_id``.
        batch_tokens: tokens with padding that go through the model at once, at most.

    Raises:
        DataError: there is no response token.

    >>> import torch
    >>> from types import SimpleNamespace
    >>> class Even(torch.nn.Module):  # gives all 4 tokens the same probability
    ...     device = torch.device("cpu")
    ...     def forward(self, input_ids, use_cache, logits_to_keep):
    ...         return SimpleNamespace(logits=torch.zeros(len(input_ids), logits_to_keep, 4))
    >>> round(response_loss(Even(), [Example((1, 2), (3, 0)), Example((1,), (0,))], pad_id=0), 4)  # log 4
    1.3863
    """
    lengths = [len(example) for example in examples]
    training = model.training
    model.eval()
    try:
        total, targets = 0.0, 0
        for part in split_microbatches(range(len(examples)), lengths, max_tokens=batch_tokens):
            batch = collate([examples[index] for index in part], pad_id)
            batch = Batch(**{name: tensor.to(model.device) for name, tensor in vars(batch).items()})
            log_probs, mask, _ = response_log_probs(model, batch)
            total -= float(log_probs[mask].double().sum())
            targets += int(mask.sum())
    finally:
        model.train(training)
    if targets == 0:
        raise DataError("the examples have no response token", "give at least one example with a response")
    return total / targets
