"""``log_generations`` of CS336 assignment 5: what the model writes during training, with the numbers to watch.

The handout asks for, at least: the prompt; the response; the ground-truth answer; format, answer and total reward;
the response's average token entropy; and average response length, of all, of correct and of incorrect responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from cs336_sft.errors import DataError
from cs336_sft.evaluation.evaluate import RewardFn, write_jsonl
from cs336_sft.generation.sampler import Sampler, SamplingConfig


@dataclass(frozen=True)
class GenerationRecord:
    """One generation as the handout wants it logged.

    Attributes:
        response_length: generated tokens, the end-of-text token included.
        average_token_entropy: in nats at temperature 1; None where the sampler records no entropies.
    """

    prompt: str
    response: str
    ground_truth: str
    format_reward: float
    answer_reward: float
    reward: float
    average_token_entropy: float | None
    response_length: int
    finish_reason: str


@dataclass(frozen=True)
class GenerationSummary:
    """Averages over the records; a response is correct if its total reward is above 0.

    Attributes:
        average_token_entropy: over responses (not over tokens, as `Metrics.entropy` is); None where not recorded.
        average_length_correct: None where no response is correct; likewise ``average_length_incorrect``.
    """

    n: int
    format_reward: float
    answer_reward: float
    reward: float
    average_token_entropy: float | None
    average_length: float
    average_length_correct: float | None
    average_length_incorrect: float | None


def log_generations(
    sampler: Sampler,
    prompts: Sequence[str],
    ground_truths: Sequence[str],
    reward_fn: RewardFn,
    sampling: SamplingConfig,
    *,
    path: str | Path | None = None,
) -> tuple[list[GenerationRecord], GenerationSummary]:
    """Sample ``sampling.n`` responses to each prompt, with entropies, and grade them.

    Args:
        prompts: whole prompts, the template applied.
        ground_truths: the reference answer for each prompt, as ``reward_fn`` wants it.
        reward_fn: ``(response, ground_truth) -> {"format_reward", "answer_reward", "reward"}``.
        path: a JSONL file for the records, one a line.

    Returns:
        The records, in the order of the prompts, and their summary.

    Raises:
        DataError: no prompts, or not one ground truth for each.

    >>> from cs336_sft.records import Generation
    >>> class Parrot:
    ...     def generate(self, prompts, sampling):
    ...         return [[Generation(p, (1, 2), p, "stop", entropies=(0.5, 1.5))] for p in prompts]
    ...     def update_weights(self, model): ...
    >>> def same(response, truth):
    ...     return dict.fromkeys(("format_reward", "answer_reward", "reward"), float(response == truth))
    >>> records, summary = log_generations(Parrot(), ["5", "6"], ["5", "7"], same, SamplingConfig())
    >>> summary.reward, summary.average_token_entropy, summary.average_length_correct
    (0.5, 1.0, 2.0)
    """
    if not prompts or len(prompts) != len(ground_truths):
        raise DataError(
            f"{len(prompts)} prompts and {len(ground_truths)} ground truths", "give one ground truth for each prompt"
        )
    generations = sampler.generate(prompts, replace(sampling, record_entropy=True))
    records = []
    for samples, truth in zip(generations, ground_truths, strict=True):
        for generation in samples:
            rewards = reward_fn(generation.text, truth)
            records.append(
                GenerationRecord(
                    prompt=generation.prompt,
                    response=generation.text,
                    ground_truth=truth,
                    format_reward=float(rewards["format_reward"]),
                    answer_reward=float(rewards["answer_reward"]),
                    reward=float(rewards["reward"]),
                    average_token_entropy=fmean(generation.entropies) if generation.entropies else None,
                    response_length=len(generation.token_ids),
                    finish_reason=generation.finish_reason,
                )
            )
    if path is not None:
        write_jsonl(path, [vars(record) for record in records])
    return records, _summarize(records)


def _summarize(records: Sequence[GenerationRecord]) -> GenerationSummary:
    def mean_or_none(values: list[float]) -> float | None:
        return fmean(values) if values else None

    entropies = [record.average_token_entropy for record in records if record.average_token_entropy is not None]
    return GenerationSummary(
        n=len(records),
        format_reward=fmean(record.format_reward for record in records),
        answer_reward=fmean(record.answer_reward for record in records),
        reward=fmean(record.reward for record in records),
        average_token_entropy=mean_or_none(entropies),
        average_length=fmean(record.response_length for record in records),
        average_length_correct=mean_or_none([r.response_length for r in records if r.reward > 0]),
        average_length_incorrect=mean_or_none([r.response_length for r in records if r.reward <= 0]),
    )
