"""Run expert iteration (Algorithm 2 of the CS336 handout): sample, grade, select, train, and again.

A round depends on the configuration, the problems and the weights before it, never on what happened in the process. A
run that was killed at any moment is resumed by the same call and ends with the same numbers (``run_folder``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.evaluation.evaluate import RewardFn, evaluate, grade_generation
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.metrics import score_rollouts, timed
from cs336_sft.expert_iteration.rollouts import sample_rollouts
from cs336_sft.expert_iteration.run_folder import (
    ExpertIterationResult,
    RunFolder,
    engine_name,
    load_expert_iteration,
    open_run,
    round_folder,
)
from cs336_sft.expert_iteration.selection import (
    questions_of_round,
    round_metrics,
    select_for_training,
    selection_rewards,
)
from cs336_sft.generation.sampler import Sampler, SamplingConfig, SharedSampler
from cs336_sft.grading import get_reward_fn
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Problem
from cs336_sft.training.loop import train_sft
from cs336_sft.utils.files import JSONDict

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def expert_iteration(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: PromptTemplate,
    config: ExpertIterationConfig,
    run_dir: str | Path,
    *,
    sampler: Sampler | None,
    validation: Sequence[Problem],
    test: Sequence[Problem] = (),
    selection_grader: RewardFn | None = None,
    cache_dir: str | Path | None = None,
    report: Callable[[JSONDict], Any] | None = None,
) -> ExpertIterationResult:
    """Improve a model in place on its own correct answers.

    Rounds draw questions from the pool ``problems``; validation follows every round, the test the last one.
    ``selection_grader`` replaces the one of ``config`` for the selection, never for metrics. Runs that share
    ``cache_dir`` share rollouts; ``report`` receives the record of each round. The sampler gets the new weights after
    each round; of several processes, those without an engine give None. Errors: see ``open_run``.
    """
    shared, reward_fn = SharedSampler(sampler), get_reward_fn(template.style)
    with open_run(run_dir, model, config, template, sampler, selection_grader, problems, validation, test) as run:
        if not run.records:
            run.add({"round": 0, "steps": 0} | _evaluate(run, shared, template, validation, "round-00"), report)
        for number in range(len(run.records), config.rounds + 1):
            record: JSONDict = {"round": number, "steps": 0}
            questions = questions_of_round(problems, config, number)  # D_b of the pool
            with timed(record, "rollout"):
                shared.update_weights(model)
                rollouts = sample_rollouts(  # [D_b][G], kept on disk
                    shared,
                    [template.prompt(problem) for problem in questions],
                    config.sampling(number, stop=template.stop),
                    cache_dir or run.path / "rollouts",
                    weights=run.records[-1]["weights"],
                    engine=engine_name(sampler),
                    chunk=config.chunk_questions,
                )
            with timed(record, "grading"):
                pairs = zip(questions, rollouts, strict=True)
                graded = [
                    grade_generation(problem, sample, reward_fn) for problem, samples in pairs for sample in samples
                ]
                rewards = selection_rewards(config, graded, selection_grader)  # D_b * G
                selection = select_for_training(config, number, questions, graded, rewards, template, tokenizer)
                selection = run.keep_selection(number, graded, selection)
            record |= round_metrics(graded, selection)
            with timed(record, "entropy"):
                record |= score_rollouts(model, tokenizer, rollouts)
            if selection.steps:
                run.load_start_weights()  # if config.train_from is "start"
                with timed(record, "training"):
                    settings, sft = config.sft_config(number, selection.steps), round_folder(run.path, number) / "sft"
                    trained = train_sft(model, tokenizer, selection.examples(), settings, sft)
                if trained.interrupted:
                    break
                losses = {"first_loss": trained.metrics[0]["loss"], "last_loss": trained.metrics[-1]["loss"]}
                record |= {"steps": selection.steps} | losses
            run.add(record | _evaluate(run, shared, template, validation, f"round-{number:02d}"), report)
        else:
            if not run.finished:
                run.finish(tokenizer, _evaluate(run, shared, template, test, "test") if test else None)
    return load_expert_iteration(run_dir)


def _evaluate(
    run: RunFolder, sampler: SharedSampler, template: PromptTemplate, problems: Sequence[Problem], name: str
) -> JSONDict:
    """Evaluate the model greedily, and keep the generations."""
    sampling = SamplingConfig(max_new_tokens=run.config.max_new_tokens, stop=template.stop, record_entropy=True)
    record: JSONDict = {}
    with timed(record, "validation"):
        sampler.update_weights(run.model)
        path = run.directory.generations / f"{name}.jsonl"
        metrics = evaluate(sampler, problems, template, get_reward_fn(template.style), sampling, path=path).metrics
    return metrics.as_dict() | (record if name != "test" else {})
