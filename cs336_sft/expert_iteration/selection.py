"""Choose the questions of a round, and the samples that it trains on."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cs336_sft.evaluation.evaluate import RewardFn
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.metrics import kept_metrics, question_key, rollout_metrics
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Example, Graded, Problem
from cs336_sft.tokenization import encode, make_examples
from cs336_sft.training.schedules import total_steps
from cs336_sft.utils.files import JSONDict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Selection:
    """The training data of one round."""

    rows: list[JSONDict]  # one per example (`selected.jsonl`): origin, text, rewards, `prompt_ids`, `response_ids`
    steps: int  # optimizer steps of the round; 0: no training
    would_keep: int  # samples that the filter of correct samples kept, whatever is trained on
    kept: JSONDict  # metrics of the kept samples; empty for human answers

    def examples(self) -> list[Example]:
        return [Example(tuple(row["prompt_ids"]), tuple(row["response_ids"])) for row in self.rows]


def questions_of_round(problems: Sequence[Problem], config: ExpertIterationConfig, number: int) -> list[Problem]:
    """Draw the questions of a round from the pool."""
    if config.questions_per_round == len(problems):
        return list(problems)  # in their order
    rng = random.Random(f"questions of round {number}, seed {config.seed}")
    return rng.sample(problems, config.questions_per_round)


def selection_rewards(
    config: ExpertIterationConfig, graded: Sequence[Graded], grader: RewardFn | None = None
) -> list[float]:
    """Return the rewards that decide what is kept, 0 for what the limit cut off."""
    if grader is not None:
        rewards = [float(grader(item.generation.text, item.problem.final)["reward"]) for item in graded]
    else:
        rewards = [item.lenient if config.selection_grader == "lenient" else item.reward for item in graded]
    if config.grader_error:
        rewards = flip_rewards(graded, rewards, config.grader_error, config.seed)
    pairs = zip(graded, rewards, strict=True)
    return [0.0 if item.generation.finish_reason == "length" else reward for item, reward in pairs]


def flip_rewards(graded: Sequence[Graded], rewards: Sequence[float], error: float, seed: int) -> list[float]:
    """Flip each reward with probability ``error``, by seed, question and sample."""

    def uniform(item: Graded) -> float:
        name = f"{seed}/{question_key(item)}/{item.generation.sample}"
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    pairs = zip(graded, rewards, strict=True)
    return [float(reward <= 0) if uniform(item) < error else reward for item, reward in pairs]


def select_samples(
    graded: Sequence[Graded],
    max_per_question: int | None = None,
    *,
    rewards: Sequence[float] | None = None,
    drop_duplicates: bool = True,
) -> list[Graded]:
    """Keep the correct samples (reward above 0), in their order.

    Of equal texts of one question (blanks at both ends aside) the first stays; then at most ``max_per_question`` of a
    question, the first ones. ``rewards`` replaces each sample's own.

    >>> from cs336_sft.records import Generation
    >>> texts = {"5": 1.0, "6": 0.0, " 5": 1.0, "3 + 2 = 5": 1.0}
    >>> samples = [(Generation("2 + 3?", (1,), text, "stop"), reward) for text, reward in texts.items()]
    >>> graded = [Graded(Problem("2 + 3?", "#### 5", "5"), sample, 1.0, r, r, r) for sample, r in samples]
    >>> [item.generation.text for item in select_samples(graded)]
    ['5', '3 + 2 = 5']
    """
    rewards = [item.reward for item in graded] if rewards is None else rewards
    correct = [item for item, reward in zip(graded, rewards, strict=True) if reward > 0]
    taken: Counter[str] = Counter()
    kept = []
    for item in _distinct(correct) if drop_duplicates else correct:
        if max_per_question is None or taken[question_key(item)] < max_per_question:
            taken[question_key(item)] += 1
            kept.append(item)
    return kept


def random_samples(graded: Sequence[Graded], n: int, seed: int, *, drop_duplicates: bool = True) -> list[Graded]:
    """Draw ``n`` samples (or all, of fewer), right or wrong, in their order."""
    pool = _distinct(graded) if drop_duplicates else list(graded)
    chosen = random.Random(seed).sample(range(len(pool)), min(n, len(pool)))
    return [pool[index] for index in sorted(chosen)]


def select_for_training(
    config: ExpertIterationConfig,
    number: int,
    questions: Sequence[Problem],
    graded: Sequence[Graded],
    rewards: Sequence[float],
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
) -> Selection:
    """Select a round's training examples as ``config.select`` says."""
    correct = select_samples(graded, config.max_per_question, rewards=rewards, drop_duplicates=config.drop_duplicates)
    target = len(correct) if config.samples_per_round is None else config.samples_per_round[number - 1]
    steps = total_steps(target, config.batch_size, config.epochs)
    if config.select == "human":
        examples = make_examples(questions, template, tokenizer, append_eos=config.append_eos)
        origins = [{"source": "human", "id": p.id, "sample": None, "text": p.answer} for p in questions]
        return Selection(_rows(number, origins, examples), steps, len(correct), {})
    finished = [item for item in graded if item.generation.finish_reason == "stop"]
    pool = {"correct": correct, "random": graded, "finished": finished}[config.select]
    kept = random_samples(pool, target, config.round_seed(number), drop_duplicates=config.drop_duplicates)
    options = {"append_eos": config.append_eos, "add_format": config.add_format and config.select == "correct"}
    examples = [training_example(item, tokenizer, **options) for item in kept]
    origins = [
        {
            "source": "rollout",
            "id": item.problem.id,
            "sample": item.generation.sample,
            "text": item.generation.text,
            "reward": item.reward,
            "lenient": item.lenient,
            "finish_reason": item.generation.finish_reason,
        }
        for item in kept
    ]
    return Selection(_rows(number, origins, examples), steps if kept else 0, len(correct), kept_metrics(kept))


def round_metrics(graded: Sequence[Graded], selection: Selection) -> JSONDict:
    """Compute the metrics of a round's rollouts and of what was kept of them."""
    rollouts = {f"rollout_{name}": value for name, value in rollout_metrics(graded).items()}
    counts = {"would_keep": selection.would_keep, "kept_n": len(selection.rows)}
    return rollouts | counts | {f"kept_{name}": value for name, value in selection.kept.items()}


def training_example(
    item: Graded, tokenizer: PreTrainedTokenizerBase, *, append_eos: bool = True, add_format: bool = False
) -> Example:
    """Turn a sample into a training example made of the ids that were sampled.

    ``append_eos`` adds end-of-text to a sample that ended at a stop string (never to one that the limit cut off);
    ``add_format`` puts the line ``#### N`` with the reference's number before it.
    """
    generation, eos = item.generation, tokenizer.eos_token_id
    ids = generation.token_ids
    if add_format:
        ids = ids[:-1] if ids and ids[-1] == eos else ids
        ids = (*ids, *encode([f"\n#### {item.problem.final}"], tokenizer)[0])
    if append_eos and generation.finish_reason == "stop" and (not ids or ids[-1] != eos):
        ids = (*ids, eos)
    return Example(tuple(encode([generation.prompt], tokenizer, add_bos=True)[0]), tuple(ids))


def _rows(number: int, origins: Sequence[JSONDict], examples: Sequence[Example]) -> list[JSONDict]:
    return [
        {"round": number, **origin, "prompt_ids": list(example.prompt_ids), "response_ids": list(example.response_ids)}
        for origin, example in zip(origins, examples, strict=True)
    ]


def _distinct(graded: Sequence[Graded]) -> list[Graded]:
    first: dict[tuple[str, str], Graded] = {}
    for item in graded:
        first.setdefault((question_key(item), item.generation.text.strip()), item)
    return list(first.values())
