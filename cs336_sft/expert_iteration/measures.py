"""What is noted of a round beside its metrics: seconds and memory of its phases, how far engine and policy agree."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import TYPE_CHECKING

import torch

from cs336_sft.evaluation.response_scores import engine_gap, score_responses
from cs336_sft.generation.sampler import Sampler
from cs336_sft.records import Example, Generation
from cs336_sft.tokenization import encode
from cs336_sft.utils.files import Record

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rollouts that the policy scores in each round: for the engine's gap, and for entropies that the engine did not record.
_SCORED, _SCORED_FOR_ENTROPY = 16, 256


def engine_name(sampler: Sampler | None) -> str:
    """What else the samples depend on: the engine, and the type it computes in where that is not the policy's.

    >>> engine_name(None)
    'NoneType'
    """
    dtype = getattr(getattr(sampler, "config", None), "dtype", None)
    return type(sampler).__name__ + (f"/{dtype}" if dtype else "")


def score_rollouts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Sequence[Sequence[Generation]],
    *,
    want_entropy: bool,
) -> tuple[float | None, float | None]:
    """The engine's gap; and, if the engine records no entropies, the policy's on a part of the rollouts."""
    flat = [sample for samples in rollouts for sample in samples if sample.token_ids]
    missing = want_entropy and any(sample.entropies is None for sample in flat)
    chosen = flat[:: max(1, len(flat) // (_SCORED_FOR_ENTROPY if missing else _SCORED))]
    prompts = encode([sample.prompt for sample in chosen], tokenizer)
    examples = [Example(tuple(p), s.token_ids) for p, s in zip(prompts, chosen, strict=True)]
    scores = score_responses(model, examples)
    entropies = [entropy for score in scores for entropy in score.entropies]
    return engine_gap(scores, chosen), fmean(entropies) if missing and entropies else None


@contextmanager
def measured(record: Record, phase: str) -> Iterator[None]:
    """Seconds of a phase, and on a GPU its peak memory, into the record."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    yield
    record[f"{phase}_seconds"] = time.perf_counter() - began
    if cuda:
        record[f"{phase}_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
