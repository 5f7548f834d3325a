"""The loss of a model on reference answers that it is not trained on: the other half of a training curve.

Accuracy counts problems, and a few hundred problems are coarse. The loss counts every token of every reference answer,
so it shows earlier and with less noise when training begins to learn the training examples by heart. It costs one
forward pass, where accuracy costs a generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.batching import split_microbatches
from cs336_sft.errors import DataError
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.records import Example
from cs336_sft.tokenization import collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def reference_loss(
    model: PreTrainedModel, examples: Sequence[Example], pad_id: int, *, batch_tokens: int = 4096
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

    >>> from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
    >>> model, _ = load_model_and_tokenizer(embedded_model_path())
    >>> examples = [Example((5, 6), (7, 8, 9)), Example((5,), (6,))]
    >>> whole, each = (reference_loss(model, part, pad_id=0) for part in (examples, examples[:1]))
    >>> alone = reference_loss(model, examples[1:], pad_id=0)
    >>> abs(whole - (3 * each + alone) / 4) < 1e-5  # weighed by tokens
    True
    """
    lengths = [len(example) for example in examples]
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        total, targets = 0.0, 0
        for part in split_microbatches(range(len(examples)), lengths, max_tokens=batch_tokens):
            batch = collate([examples[index] for index in part], pad_id)
            log_probs = get_response_log_probs(model, batch.input_ids.to(device), batch.labels.to(device))["log_probs"]
            total -= float(log_probs[batch.response_mask.to(device)].double().sum())
            targets += int(batch.response_mask.sum())
    finally:
        model.train(training)
    if targets == 0:
        raise DataError("the examples have no response token", "give at least one example with a response")
    return total / targets
