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

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft import checkpoints, processes, schedules
from cs336_sft.ei_config import ExpertIterationConfig
from cs336_sft.ei_metrics import kept_metrics, rollout_metrics
from cs336_sft.ei_result import ExpertIterationResult, load_expert_iteration, round_folder
from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.evaluation import RewardFn, evaluate, grade, write_generations, write_jsonl
from cs336_sft.grading import get_reward_fn
from cs336_sft.interrupts import StopRequest
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Example, Generation, Graded, Problem
from cs336_sft.response_scores import engine_gap, score_responses
from cs336_sft.rollouts import sample_rollouts
from cs336_sft.run_directory import RunDirectory
from cs336_sft.run_files import JsonLines, Record, plain, read_json, write_csv, write_json
from cs336_sft.sampling import Sampler, SamplingConfig
from cs336_sft.selection import flip_verdicts, lenient_verdicts, random_samples, select_samples, training_example
from cs336_sft.tokenization import encode, make_examples
from cs336_sft.training import train_sft
from cs336_sft.training_checks import fingerprint_problems
from cs336_sft.training_setup import save_model, set_weights_dtype, versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Rollouts that the policy scores in each round: for the engine's gap, and for entropies that the engine did not record.
_SCORED, _SCORED_FOR_ENTROPY = 16, 256


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
            "sampler": _engine(self.sampler),
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
                seed=_round_seed(self.config.seed, number),
                max_steps=plan["steps"],
                eval_every=None,
            )
            examples = [
                Example(tuple(row["prompt_ids"]), tuple(row["response_ids"]))
                for row in JsonLines(folder / "selected.jsonl").read()
            ]
            with _measured(record, "training"):
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
        questions = self._questions(number)
        policy = checkpoints.fingerprint_weights(self.model)
        with _measured(record, "rollout"):
            self.led.update_weights(self.model)
            rollouts = sample_rollouts(
                self.led,
                [self.template.prompt(problem) for problem in questions],
                config.sampling(number, stop=self.template.stop),
                self.cache,
                weights=policy,
                engine=_engine(self.sampler),
                chunk=config.chunk_questions,
            )
        with _measured(record, "entropy"):
            record["engine_gap"], entropy = self._scored(rollouts)
        began = time.perf_counter()
        graded = self._graded(questions, rollouts, self.reward_fn)
        write_generations(folder / "graded.jsonl", graded)
        rows, counts = self._selection(number, questions, rollouts, graded, policy)
        write_jsonl(folder / "selected.jsonl", rows)
        steps = 0
        if rows and counts["target"]:
            steps = schedules.total_steps(counts["target"], config.sft.batch_size, config.sft.epochs)
        write_json(folder / "plan.json", {"steps": steps})
        record["grading_seconds"] = time.perf_counter() - began
        return (
            {f"rollout_{name}": value for name, value in rollout_metrics(graded).items()}
            | {"would_keep": counts["would_keep"], "kept_n": len(rows)}
            | {f"kept_{name}": value for name, value in counts["kept"].items()}
            | ({} if entropy is None else {"rollout_entropy": entropy})
            | record
        )

    def _questions(self, number: int) -> list[Problem]:
        """The round's questions; where it takes the whole pool, in the pool's order."""
        if self.config.questions_per_round == len(self.problems):
            return list(self.problems)
        rng = random.Random(f"questions of round {number}, seed {self.config.seed}")
        return rng.sample(self.problems, self.config.questions_per_round)

    def _graded(
        self, questions: Sequence[Problem], rollouts: Sequence[Sequence[Generation]], reward_fn: RewardFn
    ) -> list[Graded]:
        return [
            grade(problem, sample, reward_fn)
            for problem, samples in zip(questions, rollouts, strict=True)
            for sample in samples
        ]

    def _selection(
        self,
        number: int,
        questions: Sequence[Problem],
        rollouts: Sequence[Sequence[Generation]],
        graded: Sequence[Graded],
        policy: str,
    ) -> tuple[list[Record], Record]:
        """The rows of ``selected.jsonl``, and the counts that go with them."""
        config, seed = self.config, _round_seed(self.config.seed, number)
        judged: Sequence[Graded] = graded
        if self.judge is not None:
            judged = self._graded(questions, rollouts, self.judge)
        elif config.judge == "lenient":
            judged = lenient_verdicts(graded)
        if config.grader_error:
            judged = flip_verdicts(judged, config.grader_error, config.seed)
        if config.truncated == "drop":
            judged = [replace(i, reward=0.0) if i.generation.finish_reason == "length" else i for i in judged]
        correct = select_samples(judged, config.per_question_cap, drop_duplicates=config.drop_duplicates)
        target = len(correct) if config.samples_per_round is None else config.samples_per_round[number - 1]

        if config.select == "human":
            chosen = [
                {"source": "human", "policy": None, "id": problem.id, "sample": None, "text": problem.answer}
                for problem in questions
            ]
            examples = make_examples(questions, self.template, self.tokenizer, append_eos=config.append_eos)
            return _rows(number, chosen, examples), {"target": target, "would_keep": len(correct), "kept": {}}

        pool = correct if config.select == "correct" else judged
        if config.select == "finished":
            pool = [item for item in judged if item.generation.finish_reason == "stop"]
        drop_duplicates = config.drop_duplicates and config.select != "correct"
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
            "trim": self.template.name if config.truncated == "trim" and config.select == "correct" else None,
        }
        examples = [training_example(item, self.tokenizer, **options) for item in kept]
        return _rows(number, chosen, examples), {
            "target": target,
            "would_keep": len(correct),
            "kept": kept_metrics(kept),
        }

    def _scored(self, rollouts: Sequence[Sequence[Generation]]) -> tuple[float | None, float | None]:
        """The engine's gap; and, if the engine records no entropies, the policy's on a part of the rollouts."""
        flat = [sample for samples in rollouts for sample in samples if sample.token_ids]
        missing = self.config.record_entropy and any(sample.entropies is None for sample in flat)
        chosen = flat[:: max(1, len(flat) // (_SCORED_FOR_ENTROPY if missing else _SCORED))]
        prompts = encode([sample.prompt for sample in chosen], self.tokenizer)
        examples = [Example(tuple(p), s.token_ids) for p, s in zip(prompts, chosen, strict=True)]
        scores = score_responses(self.model, examples)
        entropies = [entropy for score in scores for entropy in score.entropies]
        return engine_gap(scores, chosen), fmean(entropies) if missing and entropies else None

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
        with _measured(record, "validation"):
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


def _rows(number: int, chosen: Sequence[Record], examples: Sequence[Example]) -> list[Record]:
    return [
        {"round": number, **row, "prompt_ids": list(example.prompt_ids), "response_ids": list(example.response_ids)}
        for row, example in zip(chosen, examples, strict=True)
    ]


def _identity(item: Graded) -> tuple[str, str, int]:
    return item.problem.id, item.generation.prompt, item.generation.sample


def _round_seed(seed: int, number: int) -> int:
    return seed * 1000 + number


def _engine(sampler: Sampler | None) -> str:
    """What else the samples depend on: the engine, and the type it computes in where that is not the policy's."""
    dtype = getattr(getattr(sampler, "config", None), "dtype", None)
    return type(sampler).__name__ + (f"/{dtype}" if dtype else "")


@contextmanager
def _measured(record: Record, phase: str) -> Iterator[None]:
    """Seconds of a phase, and on a GPU its peak memory, into the record."""
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    yield
    record[f"{phase}_seconds"] = time.perf_counter() - began
    if cuda:
        record[f"{phase}_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
