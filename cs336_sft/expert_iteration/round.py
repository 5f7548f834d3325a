"""What a round of expert iteration asks and trains on: its questions, the verdicts, the samples that are kept.

No model and no engine is needed here: the same rollouts give the same selection, on any machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cs336_sft.evaluation.evaluate import RewardFn, grade
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.metrics import kept_metrics
from cs336_sft.expert_iteration.selection import (
    flip_verdicts,
    lenient_verdicts,
    random_samples,
    select_samples,
    training_example,
)
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Example, Generation, Graded, Problem
from cs336_sft.tokenization import make_examples
from cs336_sft.utils.files import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Selection:
    """What one round trains on.

    Attributes:
        rows: of ``selected.jsonl``: where each example comes from, and its ids.
        target: how many samples the round is to train on; decides the number of steps.
        would_keep: how many the filter of correct samples kept, whatever is trained on.
        kept: metrics of the kept samples; empty for human answers.
    """

    rows: list[Record]
    target: int
    would_keep: int
    kept: Record


def round_seed(seed: int, number: int) -> int:
    """The seed of a round's training and of its random choices.

    >>> round_seed(2, 3)
    2003
    """
    return seed * 1000 + number


def questions_of_round(problems: Sequence[Problem], config: ExpertIterationConfig, number: int) -> list[Problem]:
    """The round's questions; where it takes the whole pool, in the pool's order."""
    if config.questions_per_round == len(problems):
        return list(problems)
    rng = random.Random(f"questions of round {number}, seed {config.seed}")
    return rng.sample(problems, config.questions_per_round)


def grade_rollouts(
    questions: Sequence[Problem], rollouts: Sequence[Sequence[Generation]], reward_fn: RewardFn
) -> list[Graded]:
    """Every sample of every question, graded, in their order."""
    return [
        grade(problem, sample, reward_fn)
        for problem, samples in zip(questions, rollouts, strict=True)
        for sample in samples
    ]


def verdicts(
    config: ExpertIterationConfig,
    questions: Sequence[Problem],
    rollouts: Sequence[Sequence[Generation]],
    graded: Sequence[Graded],
    judge: RewardFn | None,
) -> list[Graded]:
    """What counts as correct for the selection; ``graded`` itself stays what is reported."""
    judged = list(graded)
    if judge is not None:
        judged = grade_rollouts(questions, rollouts, judge)
    elif config.judge == "lenient":
        judged = lenient_verdicts(graded)
    if config.grader_error:
        judged = flip_verdicts(judged, config.grader_error, config.seed)
    if config.truncated == "drop":
        judged = [replace(i, reward=0.0) if i.generation.finish_reason == "length" else i for i in judged]
    return judged


def select_for_training(
    config: ExpertIterationConfig,
    number: int,
    questions: Sequence[Problem],
    graded: Sequence[Graded],
    judged: Sequence[Graded],
    policy: str,
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
) -> Selection:
    """The training examples of a round, by the arm that ``config.select`` names.

    Args:
        number: of the round, from 1.
        graded: the rollouts as the template's grader sees them: these verdicts are noted.
        judged: the same rollouts with the verdicts that decide (``verdicts``).
        policy: name of the weights that sampled.
    """
    correct = select_samples(judged, config.per_question_cap, drop_duplicates=config.drop_duplicates)
    target = len(correct) if config.samples_per_round is None else config.samples_per_round[number - 1]

    if config.select == "human":
        chosen = [
            {"source": "human", "policy": None, "id": problem.id, "sample": None, "text": problem.answer}
            for problem in questions
        ]
        examples = make_examples(questions, template, tokenizer, append_eos=config.append_eos)
        return Selection(_rows(number, chosen, examples), target, len(correct), {})

    pool: Sequence[Graded] = correct if config.select == "correct" else judged
    if config.select == "finished":
        pool = [item for item in judged if item.generation.finish_reason == "stop"]
    drop_duplicates = config.drop_duplicates and config.select != "correct"
    seed = round_seed(config.seed, number)
    kept = random_samples(pool, target, seed, drop_duplicates=drop_duplicates) if len(pool) > target else list(pool)
    honest = {_identity(item): item for item in graded}
    kept = [honest[_identity(item)] for item in kept]
    chosen = [
        {
            "source": "rollout",
            "policy": policy,
            "id": item.problem.id,
            "sample": item.generation.sample,
            "text": item.generation.text,
            "reward": item.reward,
            "lenient": item.lenient,
            "finish_reason": item.generation.finish_reason,
        }
        for item in kept
    ]
    options = {
        "append_eos": config.append_eos,
        "add_format": config.add_format and config.select == "correct",
        "trim": template.name if config.truncated == "trim" and config.select == "correct" else None,
    }
    examples = [training_example(item, tokenizer, **options) for item in kept]
    return Selection(_rows(number, chosen, examples), target, len(correct), kept_metrics(kept))


def _rows(number: int, chosen: Sequence[Record], examples: Sequence[Example]) -> list[Record]:
    return [
        {"round": number, **row, "prompt_ids": list(example.prompt_ids), "response_ids": list(example.response_ids)}
        for row, example in zip(chosen, examples, strict=True)
    ]


def _identity(item: Graded) -> tuple[str, str, int]:
    return item.problem.id, item.generation.prompt, item.generation.sample
