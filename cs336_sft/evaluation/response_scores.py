"""What the policy thinks of responses: log-probabilities and entropies of their tokens, in little memory.

Only to log an entropy, it is easy to hold three or four tensors of the size of all logits at once and to run out of
memory where training did not. Here the hidden states are brought to the vocabulary a few positions at a time, without
a graph (``chunked_head``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cs336_sft.data.batching import split_microbatches
from cs336_sft.model.chunked_head import head_log_probs
from cs336_sft.model.output_head import run_to_head
from cs336_sft.records import Example, Generation
from cs336_sft.tokenization import collate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ResponseScores:
    """Of each response token, in nats at temperature 1: its log-probability and the entropy of its distribution."""

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]


@torch.inference_mode()
def score_responses(
    model: PreTrainedModel, examples: Sequence[Example], *, micro_batch_tokens: int = 4096
) -> list[ResponseScores]:
    """Score every response, in the order given.

    Args:
        model: a Hugging Face causal language model.
        examples: sequences with at least one prompt token.
        micro_batch_tokens: tokens with padding that go through the model's body at once.

    Equal to ``get_response_log_probs`` under the response mask (a test proves it).

    >>> from cs336_sft.model.loading import embedded_model_path, load_model_and_tokenizer
    >>> model, _ = load_model_and_tokenizer(embedded_model_path())
    >>> [scores] = score_responses(model, [Example((5, 6), (7, 8, 9))])
    >>> len(scores.logprobs), max(scores.logprobs) < 0
    (3, True)
    """
    training = model.training
    model.eval()
    lengths = [len(example) for example in examples]
    results: list[ResponseScores | None] = [None] * len(examples)
    for part in split_microbatches(range(len(examples)), lengths, max_tokens=micro_batch_tokens):
        batch = collate([examples[index] for index in part], pad_id=0)
        mask = batch.response_mask.to(model.device)  # [B, T]
        hidden, head = run_to_head(model, {"input_ids": batch.input_ids.to(model.device), "use_cache": False})
        labels = batch.labels.to(model.device)[mask]  # [N]
        logprobs, entropies = head_log_probs(hidden[mask], head, labels, with_entropy=True)
        sizes = batch.response_mask.sum(1).tolist()
        split = zip(logprobs.split(sizes), entropies.split(sizes), strict=True)
        for index, (own_logprobs, own_entropies) in zip(part, split, strict=True):
            results[index] = ResponseScores(tuple(own_logprobs.tolist()), tuple(own_entropies.tolist()))
    model.train(training)
    return results


def engine_gap(scores: Sequence[ResponseScores], generations: Sequence[Generation]) -> float | None:
    """Mean absolute difference, in nats a token, of the engine's log-probabilities and the policy's.

    Near 0 for an engine that holds the policy's weights (about 0.01 to 0.05 where one of them computes in bfloat16).
    A stale engine shows here at once, and nowhere else: its samples look as samples do. None where the engine records
    no log-probabilities.

    >>> sample = Generation("Q", (7, 0), "a", "stop", logprobs=(-1.0, -0.5))
    >>> engine_gap([ResponseScores((-1.5, -0.5), (0.0, 0.0))], [sample])
    0.25
    """
    differences = [
        abs(own - engines)
        for score, generation in zip(scores, generations, strict=True)
        if generation.logprobs is not None
        for own, engines in zip(score.logprobs, generation.logprobs, strict=True)
    ]
    return sum(differences) / len(differences) if differences else None
