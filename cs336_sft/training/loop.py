"""Supervised fine-tuning: ``train_sft`` turns examples into a fine-tuned model and a run directory.

A plain loop of our own on accelerate, which brings device, mixed precision and several processes. What a run does at
step s depends on the configuration, the data, the starting weights and s alone, never on what happened before in the
process: batches come from (seed, epoch), dropout from (seed, step), the learning rate from the step. So a run that was
killed goes on from its last checkpoint and ends with the same numbers as one that was not, and evaluating more often
does not change what is trained.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from cs336_sft.data.batching import epoch_batches
from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.records import Example
from cs336_sft.tokenization import padding_id
from cs336_sft.training import checkpoints, schedules
from cs336_sft.training import fsdp as sharding
from cs336_sft.training.checks import check_examples, check_identity, check_trackers
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.result import TrainingResult, is_wall_clock, load_result, without_wall_clock
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.setup import compiled_layers, run_accelerator, save_model, session_facts, set_weights_dtype
from cs336_sft.training.step import NonFiniteLossError, SFTStep, make_optimizer
from cs336_sft.utils.files import Record, plain, read_json, write_json
from cs336_sft.utils.interrupts import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

__all__ = [
    "NonFiniteLossError",
    "SFTConfig",
    "TrainingResult",
    "is_wall_clock",
    "load_result",
    "train_sft",
    "without_wall_clock",
]

Evaluator = Callable[[int], Mapping[str, float]]

_OWN_EVALUATION_FIELDS = ("step", "epoch", "seconds")


def train_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: SFTConfig,
    run_dir: str | Path,
    *,
    evaluator: Evaluator | None = None,
    evaluation: Mapping[str, Any] | None = None,
    optimizer_from: checkpoints.Checkpoint | None = None,
) -> TrainingResult:
    """Fine-tune ``model`` in place and keep everything in ``run_dir``.

    The model is changed: for another run load the starting weights anew. Called again with the same arguments it goes
    on where it was stopped (by Ctrl-C, SIGTERM, or a crash), and once finished it returns the stored result without
    training; in both cases ``model`` receives the stored weights.

    Args:
        model: a Hugging Face causal language model. Parameters that are trained get the type
            ``config.weights_dtype`` (float32: master weights); those with ``requires_grad=False`` stay as they are.
            In evaluation mode afterwards.
        tokenizer: its pad or eos id pads the batches; it is saved beside the final model.
        examples: the training sequences.
        config: see ``SFTConfig``.
        run_dir: a new or empty directory, or that of the same run; see ``run_directory`` for what is in it.
        evaluator: called as ``evaluator(step)`` before the first step (0) and at the steps of ``config.eval_every``,
            with ``model`` in evaluation mode; returns flat metrics. Several processes all call it, so that they can
            share the work (`processes.SharedSampler`); what the main one returns is kept.
        evaluation: what the evaluator measures with (problems, limit, ...), flat, of JSON values. Kept with the
            configuration: a run can't go on with other ones, for its curve would change its meaning halfway.
        optimizer_from: begin with the optimizer state of this checkpoint of another run; by default with none.

    Returns:
        A ``TrainingResult``; ``interrupted`` is True if it was stopped by a signal before the end.

    Raises:
        RunDirectoryError: the directory belongs to a run with another configuration, other data, other starting
            weights or another ``evaluation`` (the message names the fields), is in use, or is damaged.
        DataError, ContextLengthError: an example can't be trained on.
        NonFiniteLossError: loss or gradient became nan or infinite; ``nonfinite.json`` holds the batch.
        ConfigError: a tracker's package is missing, or accelerate was launched with a sharding other than FSDP2.
    """
    examples = tuple(examples)
    check_examples(examples, model)
    check_trackers(config.trackers)
    run = RunDirectory(run_dir)
    # The caller's random state is put back afterwards; the loop seeds its own at every step.
    with ExitStack() as stack:
        accelerator = stack.enter_context(run_accelerator(config, run.path))
        devices = [accelerator.device] if accelerator.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        if accelerator.is_main_process:
            stack.enter_context(run.locked())
        model.to(accelerator.device)
        set_weights_dtype(model, config)
        if accelerator.is_main_process:
            check_identity(run, model, examples, config, evaluation or {}, optimizer_from)
        accelerator.wait_for_everyone()
        finished = run.result.exists()
        start = checkpoints.newest_checkpoint(run.checkpoints) if finished else _where_to_go_on(run)
        if start:
            checkpoints.load_weights(start, model)
        if finished:
            if start is None or start.step != read_json(run.result)["steps"]:
                raise RunDirectoryError(
                    f"{run.path}: finished, but its last checkpoint is missing or damaged",
                    f"load the model from {run.final}, or start a new run directory",
                )
            model.eval()
            return load_result(run.path)
        sharded = sharding.is_asked_for(accelerator)
        stop = stack.enter_context(StopRequest())
        loop = _Loop(accelerator, model, tokenizer, examples, config, run, evaluator, stop, sharded)
        stack.callback(model.eval)
        stack.enter_context(compiled_layers(model, config.compile))
        stack.enter_context(loop.prepared(start, optimizer_from))
        return loop.run()


def _where_to_go_on(run: RunDirectory) -> checkpoints.Checkpoint | None:
    """The newest whole checkpoint up to which the log of the steps is whole too; an older one if lines were lost."""
    steps = [record["step"] for record in run.metrics.read()]
    newest = None
    for checkpoint in checkpoints.list_checkpoints(run.checkpoints):
        newest = newest or checkpoint
        if steps[: checkpoint.step] == list(range(1, checkpoint.step + 1)):
            return checkpoint
        _log.warning("%s: ends before step %d; using an older checkpoint", run.metrics.path, checkpoint.step)
    return newest


class _Loop:
    """One session's work on a run."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: tuple[Example, ...],
        config: SFTConfig,
        run: RunDirectory,
        evaluator: Evaluator | None,
        stop: StopRequest,
        sharded: bool,
    ) -> None:
        self.accelerator, self.model, self.tokenizer, self.config = accelerator, model, tokenizer, config
        self.examples, self.directory, self.evaluator, self.stop = examples, run, evaluator, stop
        self.main, self.is_sharded = accelerator.is_main_process, sharded
        self.clipped, self.evaluated = 0, set[int]()
        self.steps_per_epoch = schedules.total_steps(len(examples), config.batch_size, epochs=1)
        self.total = schedules.total_steps(len(examples), config.batch_size, config.epochs, config.max_steps)
        self.evaluate_at = set(schedules.evaluation_steps(self.total, config.eval_every)) if evaluator else set()
        self.checkpoint_at = set(schedules.checkpoint_steps(self.total, config.checkpoint_every, self.steps_per_epoch))
        lengths = [len(example) for example in examples]
        self._epoch_batches = lru_cache(1)(
            lambda epoch: epoch_batches(lengths, config.batch_size, seed=config.seed, epoch=epoch)
        )

    @contextmanager
    def prepared(
        self, start: checkpoints.Checkpoint | None, optimizer_from: checkpoints.Checkpoint | None
    ) -> Iterator[None]:
        """Optimizer, accelerate's wrappers and logs, ready to go on after ``start``; undone at the end."""
        config, accelerator = self.config, self.accelerator
        self.first_step = start.step + 1 if start else 1
        self.optimizer = make_optimizer(self.model, config)
        if state := start or optimizer_from:
            checkpoints.load_optimizer(state, self.model, self.optimizer)
        if self.main:
            self._rewind_logs(self.first_step - 1)
            self.directory.add_session(session_facts(accelerator, self.first_step - 1))
        accelerator.wait_for_everyone()
        self.evaluated = {record["step"] for record in self.directory.evaluations.read()}
        self.sharded = (
            sharding.ShardedCopy(self.model, self.optimizer, accelerator.device, bf16=config.mixed_precision == "bf16")
            if self.is_sharded
            else None
        )
        self.trained = self.sharded.module if self.sharded else self.model
        if config.gradient_checkpointing:
            self.trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if config.trackers:
            settings = {k: v if isinstance(v, int | float | str) else str(v) for k, v in config.to_dict().items()}
            accelerator.init_trackers("cs336-sft", config=settings)
        attributes = {name: value for name, value in vars(self.model).items() if name == "forward"}
        if self.sharded:
            wrapped, optimizer = self.sharded.module, self.sharded.optimizer
        else:
            wrapped, optimizer = accelerator.prepare(self.model, self.optimizer)
        self.step = SFTStep(accelerator, wrapped, optimizer, self.examples, config, padding_id(self.tokenizer))
        try:
            yield
        finally:
            # accelerate leaves marks on the model, and for mixed precision another `forward`: take them off again.
            # unwrap_model(keep_fp32_wrapper=False) would also strip transformers' own decorators of `forward`.
            for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
                self.model.__dict__.pop(name, None)
            self.model.__dict__.update(attributes)
            if config.gradient_checkpointing:
                self.trained.gradient_checkpointing_disable()
            if self.sharded:
                self.sharded.give_back()
            for tracker in accelerator.trackers:
                tracker.finish()
            if self.main:
                self.directory.write_tables()

    def run(self) -> TrainingResult:
        bar = tqdm(
            total=self.total,
            initial=self.first_step - 1,
            desc="SFT",
            unit="step",
            # None: off where stderr is no terminal (a log file, CI); a notebook shows it all the same.
            disable=None if self.config.progress and self.main else True,
        )
        if self.first_step > 1 and self.main:
            tqdm.write(f"Resuming {self.directory.path} from step {self.first_step - 1}", file=sys.stderr)
        with bar:
            stopped = not self._evaluate(self.first_step - 1) or self._stop_requested()
            for step in range(self.first_step, self.total + 1):
                if stopped:
                    break
                record = self._train(step)
                bar.set_postfix(loss=f"{record['loss']:.3f}", tokens_per_s=f"{record['tokens_per_second']:.0f}")
                bar.update()
                stopped = self._stop_requested()
                if step in self.checkpoint_at or stopped:
                    # Before the evaluation, so that a crash in that loses nothing; on resume it is made up for.
                    self._checkpoint(step)
                if not stopped:
                    stopped = not self._evaluate(step) or self._stop_requested()
                    if stopped and step not in self.checkpoint_at:
                        self._checkpoint(step)
        if not stopped:
            self._finish()
        elif self.main:
            text = f"Stopped. To go on, call the same again with the run directory {self.directory.path}"
            tqdm.write(text, file=sys.stderr)
        self.accelerator.wait_for_everyone()
        return load_result(self.directory.path)

    def _train(self, step: int) -> Record:
        """One optimizer step and its line in the log."""
        config = self.config
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        warmup = schedules.warmup_steps(config.warmup, self.total)
        lr = config.learning_rate * schedules.lr_factor(step, self.total, config.schedule, warmup)
        self.trained.train()
        try:
            numbers = self.step.run(step, self._epoch_batches(epoch)[position], lr)
        except NonFiniteLossError as error:
            if self.main:
                write_json(self.directory.path / "nonfinite.json", self._batch_of(error))
            raise
        self.clipped += numbers["clipped"]
        progress = {"step": step, "epoch": step / self.steps_per_epoch}
        record = plain({**progress, **numbers, "clipped_share": self.clipped / step})
        if self.main:
            self.directory.metrics.append(record)
        numbers = {f"train/{name}": value for name, value in record.items() if name != "step" and value is not None}
        self.accelerator.log(numbers, step=step)
        return record

    def _batch_of(self, error: NonFiniteLossError) -> Record:
        """What it takes to look at a step that failed: its examples, as ids and as text."""
        shown = [
            {
                "index": index,
                "prompt_ids": list(self.examples[index].prompt_ids),
                "response_ids": list(self.examples[index].response_ids),
                "text": self.tokenizer.decode([*self.examples[index].prompt_ids, *self.examples[index].response_ids]),
            }
            for index in error.indices
        ]
        indices = list(error.indices)
        return {"step": error.step, "problem": error.problem, "example_indices": indices, "examples": shown}

    def _evaluate(self, step: int) -> bool:
        """Evaluate if it is due and not done yet. False if it was interrupted."""
        if step not in self.evaluate_at or step in self.evaluated:
            return True
        if self.sharded:
            self.sharded.gather(optimizer=False)
        self.model.eval()
        began = time.perf_counter()
        # Processes that share the work can't be interrupted one by one: they stop after it, all together.
        alone = self.accelerator.num_processes == 1
        try:
            with (
                self.stop.at_once() if alone else nullcontext(),
                self.sharded.model_on_device() if self.sharded else nullcontext(),
            ):
                metrics = plain(self.evaluator(step))
        except KeyboardInterrupt:
            self.stop.requested = True
            return False
        except Exception:
            # A failing evaluator must not cost the training so far. (To gather shards takes all processes.)
            if step > 0 and not self.sharded:
                self._checkpoint(step)
            raise
        seconds = time.perf_counter() - began
        if taken := [name for name in _OWN_EVALUATION_FIELDS if name in metrics]:
            raise ConfigError(f"the evaluator returned a metric called {taken[0]!r}", "give it another name")
        record = {"step": step, "epoch": step / self.steps_per_epoch, **metrics, "seconds": seconds}
        if self.main:
            self.directory.evaluations.append(record)
            self.directory.write_tables()
        numbers = {f"eval/{name}": value for name, value in metrics.items() if value is not None}
        self.accelerator.log(numbers, step=step)
        return True

    def _checkpoint(self, step: int) -> None:
        if self.sharded:
            self.sharded.gather(optimizer=self.main)
        if self.main:
            self.directory.metrics.sync()
            self.directory.evaluations.sync()
            checkpoints.save_checkpoint(
                self.directory.checkpoints, step, self.model, self.optimizer, self.config.keep_checkpoints
            )

    def _finish(self) -> None:
        """The final model, and the mark that the run is complete."""
        if self.sharded:
            self.sharded.gather(optimizer=False)
        if self.main:
            final = self.directory.final
            checkpoints.replace_folder(final, lambda folder: save_model(self.model, self.tokenizer, folder))
            self.directory.write_tables()
            write_json(self.directory.result, {"steps": self.total})

    def _rewind_logs(self, step: int) -> None:
        """Drop what was logged after ``step``; those steps are made again."""
        for lines in (self.directory.metrics, self.directory.evaluations):
            lines.keep(lambda record: record["step"] <= step)
        records = self.directory.metrics.read()
        if [record["step"] for record in records] != list(range(1, step + 1)):
            raise RunDirectoryError(
                f"{self.directory.metrics.path}: not one line for each of the steps 1 to {step} of the checkpoint",
                "restore the file, or start a new run directory",
            )
        self.clipped = sum(record["clipped"] for record in records)

    def _stop_requested(self) -> bool:
        """Whether any process was asked to stop; they must all leave the loop after the same step."""
        if self.accelerator.num_processes == 1:
            return self.stop.requested
        flag = torch.tensor(int(self.stop.requested), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)
