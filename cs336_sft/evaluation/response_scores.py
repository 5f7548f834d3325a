"""The policy's view of given responses: their loss, and log-probabilities and entropies of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.batching import split_microbatches
from cs336_sft.errors import DataError
from cs336_sft.logprobs import get_response_log_probs
from cs336_sft.model.loading import evaluation_mode
from cs336_sft.records import Example, Generation
from cs336_sft.tokenization import collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ResponseScores:
    """Log-probability, and entropy of the distribution, of each response token, in nats at temperature 1."""

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]


def validation_loss(model: PreTrainedModel, examples: Sequence[Example], *, batch_tokens: int = 4096) -> float:
    """Compute the mean negative log-likelihood of response tokens, in nats.

    Every token weighs alike. `batch_tokens` (tokens with padding that go through the model at once) changes nothing.
    """
    total, targets = 0.0, 0
    for _, mask, values in _run(model, examples, batch_tokens, entropy=False):
        total -= float(values["log_probs"][mask].double().sum())
        targets += int(mask.sum())
    if targets == 0:
        raise DataError("the examples have no response token", "give at least one example with a response")
    return total / targets


def score_responses(
    model: PreTrainedModel, examples: Sequence[Example], *, batch_tokens: int = 4096
) -> list[ResponseScores]:
    """Score responses that come after at least one prompt token each."""
    results: dict[int, ResponseScores] = {}
    for part, mask, values in _run(model, examples, batch_tokens, entropy=True):
        for row, index in enumerate(part):
            logprobs, entropies = (values[name][row, mask[row]] for name in ("log_probs", "token_entropy"))
            results[index] = ResponseScores(tuple(logprobs.tolist()), tuple(entropies.tolist()))
    return [results[index] for index in range(len(examples))]


def engine_gap(scores: Sequence[ResponseScores], generations: Sequence[Generation]) -> float | None:
    """Average the difference of log-probabilities of engine and policy, in nats.

    Near 0 for an engine that holds the policy's weights (0.01 to 0.05 where one computes in bfloat16). None where the
    engine records no log-probabilities.
    """
    differences = [
        abs(own - engines)
        for score, generation in zip(scores, generations, strict=True)
        if generation.logprobs is not None
        for own, engines in zip(score.logprobs, generation.logprobs, strict=True)
    ]
    return sum(differences) / len(differences) if differences else None


def _run(
    model: PreTrainedModel, examples: Sequence[Example], batch_tokens: int, entropy: bool
) -> list[tuple[list[int], torch.Tensor, dict[str, torch.Tensor]]]:
    """Return indices of examples, response mask, and values at its True positions."""
    lengths = [len(example) for example in examples]
    device = next(model.parameters()).device
    results = []
    with evaluation_mode(model), torch.inference_mode():
        for part in split_microbatches(range(len(examples)), lengths, batch_tokens):
            batch = collate([examples[index] for index in part], pad_id=0)  # padding on the right changes no value
            ids, labels, mask = (x.to(device) for x in (batch.input_ids, batch.labels, batch.response_mask))
            values = get_response_log_probs(model, ids, labels, return_token_entropy=entropy, response_mask=mask)
            results.append((list(part), mask, values))
    return results
