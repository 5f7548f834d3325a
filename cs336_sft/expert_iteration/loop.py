"""Expert iteration (Algorithm 2 of the CS336 handout): sample, keep what is correct, train on it, and again.

    for each round:
        draw questions; sample G answers to each          rollouts/   the cache, appended to a chunk at a time
        grade them; select                                round-01/graded.jsonl, selected.jsonl, plan.json
        supervised fine-tuning on the selection           round-01/sft/   a run directory of train_sft
        validate                                          rounds.jsonl, rounds.csv, generations/

A round depends on the configuration, the problems and the weights before it, never on what happened in the process.
Each phase leaves its result on the disk and finds it there again, so that a run killed anywhere (in the middle of
sampling too) goes on and ends with the same numbers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.evaluation.evaluate import RewardFn, evaluate, write_generations, write_jsonl
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.measures import engine_name, measured, score_rollouts
from cs336_sft.expert_iteration.metrics import rollout_metrics
from cs336_sft.expert_iteration.result import ExpertIterationResult, load_expert_iteration, round_folder
from cs336_sft.expert_iteration.rollouts import sample_rollouts
from cs336_sft.expert_iteration.round import (
    grade_rollouts,
    questions_of_round,
    round_seed,
    select_for_training,
    verdicts,
)
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.grading import get_reward_fn
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Example, Problem
from cs336_sft.training import checkpoints, schedules
from cs336_sft.training.checks import fingerprint_problems
from cs336_sft.training.loop import train_sft
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.setup import save_model, set_weights_dtype, versions
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import JsonLines, Record, plain, read_json, write_csv, write_json
from cs336_sft.utils.interrupts import StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def run_expert_iteration(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    template: PromptTemplate,
    config: ExpertIterationConfig,
    run_dir: str | Path,
    *,
    sampler: Sampler | None,
    validation: Sequence[Problem],
    test: Sequence[Problem] | None = None,
    judge: RewardFn | None = None,
    cache_dir: str | Path | None = None,
    report: Callable[[Record], Any] | None = None,
) -> ExpertIterationResult:
    """Improve ``model`` in place on its own correct answers, and keep everything in ``run_dir``.

    Called again with the same arguments (and the starting weights) it goes on where it was stopped; once finished it
    returns the stored result, and ``model`` receives the stored weights.

    Args:
        model: the start: a base model, or one after a little fine-tuning. Its weights become of the
            type ``config.sft.weights_dtype``.
        tokenizer: its tokenizer.
        problems: the pool that each round draws its questions from.
        template: prompt and answer format; its grader measures, and judges by default.
        config: see ``ExpertIterationConfig``.
        run_dir: a new or empty directory, or that of the same run.
        sampler: writes rollouts and evaluations; receives the weights by ``update_weights`` after every round. Of
            several processes (``accelerate launch``) those that give one share the prompts; an engine is the main
            one's alone, and the others pass None.
        validation: measured before the first round and after every one, greedily.
        test: measured once, after the last round.
        judge: a reward function of your own that decides what is kept, in place of ``config.judge``; metrics stay
            those of the template's grader.
        cache_dir: of the rollouts; arms that share one share what they have in common. Default: in ``run_dir``.
        report: called with each round's record.

    Raises:
        ConfigError: fewer problems than ``questions_per_round``.
        RunDirectoryError: the directory belongs to another run, or is in use, or the model's weights are neither
            those that the run started from nor those of one of its rounds.
    """
    problems, validation, test = tuple(problems), tuple(validation), tuple(test or ())
    if len(problems) < config.questions_per_round:
        raise ConfigError(
            f"ExpertIterationConfig.questions_per_round is {config.questions_per_round}, the pool has {len(problems)}",
            "lower it, or give more problems",
        )
    run = RunDirectory(run_dir)
    processes.join()
    model.to(processes.own_device())
    set_weights_dtype(model, config.sft)
    loop = _Loop(model, tokenizer, problems, template, config, run, sampler, validation, test, judge, cache_dir, report)
    if not loop.main:
        return loop.run()
    with run.locked(), StopRequest() as stop, stop.at_once():
        loop.check_identity()
        try:
            return loop.run()
        except KeyboardInterrupt:
            return load_expert_iteration(run.path)
        finally:
            model.eval()


class _Loop:
    """One session's work on a run."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        problems: tuple[Problem, ...],
        template: PromptTemplate,
        config: ExpertIterationConfig,
        run: RunDirectory,
        sampler: Sampler | None,
        validation: tuple[Problem, ...],
        test: tuple[Problem, ...],
        judge: RewardFn | None,
        cache_dir: str | Path | None,
        report: Callable[[Record], Any] | None,
    ) -> None:
        self.model, self.tokenizer, self.template, self.config = model, tokenizer, template, config
        self.problems, self.validation, self.test = problems, validation, test
        self.directory, self.sampler, self.judge, self.report = run, sampler, judge, report
        self.cache = Path(cache_dir) if cache_dir else run.path / "rollouts"
        self.rounds = JsonLines(run.path / "rounds.jsonl")
        self.reward_fn = get_reward_fn(template.name)
        self.main = processes.is_main()
        self.led = processes.LedSampler(sampler)
        self.start_weights: dict[str, torch.Tensor] = {}

    def check_identity(self) -> None:
        """A new run notes what it is made from; an existing one must agree."""
        weights = checkpoints.fingerprint_weights(self.model)
        path = self.directory.path / "config.json"
        if path.exists():
            stored = read_json(path).get("starting_weights")
            known = {record["weights"] for record in self.rounds.read()}
            if weights in known and self.config.continue_from == "previous":
                weights = stored  # in a notebook the model in memory is often the one that this run has trained
            elif weights != stored:
                raise RunDirectoryError(
                    f"{self.directory.path}: the model does not have the weights that the run started from",
                    "load the starting model again, or choose a new run directory",
                )
        judge = self.judge and getattr(self.judge, "__name__", type(self.judge).__name__)
        identity = {
            **self.config.to_dict(),
            "starting_weights": weights,
            "model": type(self.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "template": self.template.name,
            "sampler": engine_name(self.sampler),
            "judge_function": judge,
            **{
                name: fingerprint_problems(values)
                for name, values in (("pool", self.problems), ("validation", self.validation), ("test", self.test))
            },
            "n_pool": len(self.problems),
            "n_validation": len(self.validation),
            "n_test": len(self.test),
        }
        self.directory.check_config(identity, free=("keep_rounds", "sft.progress"))
        self.rounds.keep(lambda _record: True)  # drops a line that was cut off
        self.directory.add_session(versions(self.model.device) | {"from_round": len(self.rounds.read())})

    def run(self) -> ExpertIterationResult:
        if self.config.continue_from == "start":
            self.start_weights = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters()}
        # What the main process finds when all begin: it may write on while another one reads.
        records, finished = processes.gather((self.rounds.read(), self.directory.result.exists()))[0]
        self._restore(records)
        if finished:
            return load_expert_iteration(self.directory.path)
        if not records and self.main:
            self._append({"round": 0, "steps": 0, "total_steps": 0} | self._validate(0))
        for number in range(max(1, len(records)), self.config.rounds + 1):
            if not self._round(number):
                break
        else:
            if self.main:
                self._finish()
                self.led.release()
            else:
                self.led.follow()
        return load_expert_iteration(self.directory.path)

    # --- one round ----------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> bool:
        """Sample, select, train, validate. False if the training was interrupted."""
        folder = round_folder(self.directory.path, number)
        record: Record = {"round": number}
        if self.main:
            folder.mkdir(exist_ok=True)
            record |= self._sample_and_select(number, folder)
            self.led.release()
        else:
            self.led.follow()
        plan = read_json(folder / "plan.json")
        if plan["steps"]:
            if self.config.continue_from == "start":
                for name, parameter in self.model.named_parameters():
                    parameter.data.copy_(self.start_weights[name])
            config = replace(
                self.config.sft,
                seed=round_seed(self.config.seed, number),
                max_steps=plan["steps"],
                eval_every=None,
            )
            examples = [
                Example(tuple(row["prompt_ids"]), tuple(row["response_ids"]))
                for row in JsonLines(folder / "selected.jsonl").read()
            ]
            with measured(record, "training"):
                result = train_sft(
                    self.model,
                    self.tokenizer,
                    examples,
                    config,
                    folder / "sft",
                    optimizer_from=self._optimizer(number),
                )
            if result.interrupted:
                return False
            record |= {"first_loss": result.metrics[0]["loss"], "last_loss": result.metrics[-1]["loss"]}
        if self.main:
            total = sum(r["steps"] for r in self.rounds.read()) + plan["steps"]
            record |= {"steps": plan["steps"], "total_steps": total}
            self._append(record | self._validate(number))
            self._prune(number)
        return True

    def _sample_and_select(self, number: int, folder: Path) -> Record:
        """Everything up to the training examples, which go to the disk with a plan that says how long to train."""
        config, record = self.config, {}
        questions = questions_of_round(self.problems, config, number)
        policy = checkpoints.fingerprint_weights(self.model)
        with measured(record, "rollout"):
            self.led.update_weights(self.model)
            rollouts = sample_rollouts(
                self.led,
                [self.template.prompt(problem) for problem in questions],
                config.sampling(number, stop=self.template.stop),
                self.cache,
                weights=policy,
                engine=engine_name(self.sampler),
                chunk=config.chunk_questions,
            )
        with measured(record, "entropy"):
            record["engine_gap"], entropy = score_rollouts(
                self.model, self.tokenizer, rollouts, want_entropy=config.record_entropy
            )
        began = time.perf_counter()
        graded = grade_rollouts(questions, rollouts, self.reward_fn)
        write_generations(folder / "graded.jsonl", graded)
        judged = verdicts(config, questions, rollouts, graded, self.judge)
        selection = select_for_training(
            config, number, questions, graded, judged, policy, self.template, self.tokenizer
        )
        write_jsonl(folder / "selected.jsonl", selection.rows)
        steps = 0
        if selection.rows and selection.target:
            steps = schedules.total_steps(selection.target, config.sft.batch_size, config.sft.epochs)
        write_json(folder / "plan.json", {"steps": steps})
        record["grading_seconds"] = time.perf_counter() - began
        return (
            {f"rollout_{name}": value for name, value in rollout_metrics(graded).items()}
            | {"would_keep": selection.would_keep, "kept_n": len(selection.rows)}
            | {f"kept_{name}": value for name, value in selection.kept.items()}
            | ({} if entropy is None else {"rollout_entropy": entropy})
            | record
        )

    # --- weights, records ---------------------------------------------------------------------------------------------

    def _restore(self, records: Sequence[Mapping[str, Any]]) -> None:
        """The weights of the last finished round."""
        trained = [record["round"] for record in records if record["steps"]]
        if trained:
            with torch.no_grad():
                checkpoints.load_weights(self._checkpoint(trained[-1]), self.model)

    def _optimizer(self, number: int) -> checkpoints.Checkpoint | None:
        trained = [record["round"] for record in self.rounds.read() if record["steps"] and record["round"] < number]
        return self._checkpoint(trained[-1]) if self.config.optimizer == "keep" and trained else None

    def _checkpoint(self, number: int) -> checkpoints.Checkpoint:
        folder = round_folder(self.directory.path, number) / "sft" / "checkpoints"
        found = checkpoints.newest_checkpoint(folder)
        if found is None:
            raise RunDirectoryError(f"{folder}: no usable checkpoint of round {number}", "start a new run directory")
        return found

    def _validate(self, number: int) -> Record:
        record: Record = {"weights": checkpoints.fingerprint_weights(self.model)}
        with measured(record, "validation"):
            metrics = self._evaluate(self.validation, f"round-{number:02d}")
        return metrics | record

    def _evaluate(self, problems: Sequence[Problem], name: str) -> Record:
        sampling = SamplingConfig(
            max_new_tokens=self.config.max_new_tokens,
            stop=self.template.stop,
            record_entropy=self.config.record_entropy,
        )
        self.led.update_weights(self.model)
        path = self.directory.generations / f"{name}.jsonl"
        evaluation = evaluate(self.led, problems, self.template, self.reward_fn, sampling, path=path)
        return evaluation.metrics.as_dict()

    def _append(self, record: Record) -> None:
        record = plain(record)
        self.rounds.append(record)
        write_csv(self.directory.path / "rounds.csv", self.rounds.read())
        if self.report is not None:
            self.report(record)

    def _prune(self, number: int) -> None:
        """Drop the weights of old rounds; those of the last round that trained are always kept."""
        trained = [record["round"] for record in self.rounds.read() if record["steps"]]
        if self.config.keep_rounds is not None:
            for old in trained[: -self.config.keep_rounds]:
                for name in ("checkpoints", "final"):
                    shutil.rmtree(round_folder(self.directory.path, old) / "sft" / name, ignore_errors=True)

    def _finish(self) -> None:
        test = plain(self._evaluate(self.test, "test")) if self.test else None

        checkpoints.replace_folder(self.directory.final, lambda folder: save_model(self.model, self.tokenizer, folder))
        write_json(self.directory.result, {"rounds": self.config.rounds, "test": test})
