"""A session of work on a run: from the run directory to a model that is ready for its next step, and back.

A step depends on configuration, data, starting weights and its number alone: a killed run ends with the same numbers.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.records import Example
from cs336_sft.training import checkpoints, fsdp
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.distributed import DataParallel, SingleProcess
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.setup import check_identity, save_model, set_weights_dtype, versions
from cs336_sft.training.step import NonFiniteLossError, make_optimizer
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import JSONDict, read_json, replace_folder, write_json
from cs336_sft.utils.interrupts import StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORTH_SAVING = 60  # seconds; a checkpoint is 12 bytes a parameter, and takes half a minute for a model of 1.5B
_log = logging.getLogger(__name__)


@dataclass
class Session:
    """What ``train_sft`` works with, and what it leaves in the run directory."""

    directory: RunDirectory
    model: PreTrainedModel  # the caller's, with the weights of step `first_step - 1`
    tokenizer: PreTrainedTokenizerBase
    config: SFTConfig
    group: SingleProcess
    stop: StopRequest  # set by Ctrl-C and SIGTERM
    finished: bool  # the run is complete, and there is nothing to train
    keep_weights: bool = True  # False: nothing but an interruption writes weights
    first_step: int = 1
    evaluated: set[int] = field(default_factory=set)  # steps whose evaluations are stored
    trained: torch.nn.Module | None = None  # the model as it is trained, perhaps wrapped
    optimizer: torch.optim.Optimizer | None = None

    def log_step(self, record: JSONDict) -> None:
        """Append the record of a step, with the fraction of clipped steps so far."""
        self._clipped += record["clipped"]
        if self.group.is_main:
            self.directory.metrics.append(record | {"clipped_share": self._clipped / record["step"]})

    def log_evaluation(self, record: JSONDict) -> None:
        self.evaluated.add(record["step"])
        if self.group.is_main:
            self.directory.evaluations.append(record)
            self.directory.write_tables()

    @contextmanager
    def logging_failure(self, step: int, examples: Sequence[Example], indices: Sequence[int]) -> Iterator[None]:
        """Write the batch of a step that fails to ``nonfinite.json``, as ids and as text."""
        try:
            yield
        except NonFiniteLossError as error:
            if self.group.is_main:
                shown = []
                for index in indices:
                    text = self.tokenizer.decode([*examples[index].prompt_ids, *examples[index].response_ids])
                    shown.append({"index": index, **asdict(examples[index]), "text": text})
                facts = {"step": step, "problem": error.problem, "example_indices": indices, "examples": shown}
                write_json(self.directory.path / "nonfinite.json", facts)
            raise

    def stop_requested(self) -> bool:
        """Return whether any process was asked to stop, the same in all of them."""
        return bool(self.group.sum(int(self.stop.requested)))

    def is_worth_saving(self) -> bool:
        """Return whether a minute was trained since the last checkpoint."""
        return bool(self.group.sum(int(self.group.is_main and time.monotonic() - self._saved_at > WORTH_SAVING)))

    def save(self, step: int, *, last: bool = False) -> None:
        """Write a checkpoint of the model after ``step``, unless there is one."""
        if step == self._saved:
            return
        self.group.collect(optimizer=self.group.is_main and not last)
        if self.group.is_main:
            self.directory.metrics.sync()
            self.directory.evaluations.sync()
            optimizer = None if last else self._own_optimizer
            checkpoints.save_checkpoint(
                self.directory.checkpoints, step, self.model, optimizer, self.config.keep_checkpoints
            )
        self._saved, self._saved_at = step, time.monotonic()

    def finish(self, steps: int) -> None:
        """Write the final model if it is kept, then the mark that the run is complete."""
        self.group.collect(optimizer=False)
        if self.group.is_main:
            if self.keep_weights:
                final = self.directory.final
                replace_folder(final, lambda folder: save_model(self.model, self.tokenizer, folder))
            self.directory.write_tables()
            write_json(self.directory.result, {"steps": steps})

    @contextmanager
    def prepared(self, start: checkpoints.Checkpoint | None, changes: JSONDict) -> Iterator[None]:
        """Make the optimizer and rewind the logs, to continue from ``start``."""
        self.first_step = start.step + 1 if start else 1
        self._saved, self._saved_at, self._clipped = self.first_step - 1, time.monotonic(), 0
        self._own_optimizer = make_optimizer(self.model, self.config)
        if start:
            checkpoints.load_optimizer(start, self.model, self._own_optimizer)
        if self.group.is_main:
            self._rewind_logs(self._saved)
            facts = versions(self.group.device) | {"from_step": self._saved, "processes": self.group.size}
            self.directory.add_session(facts | ({"changed": changes} if changes else {}))
            if start:
                tqdm.write(f"Resuming {self.directory.path} from step {start.step}", file=sys.stderr)
        self.group.wait()
        self.evaluated = {record["step"] for record in self.directory.evaluations.read()}
        if self.config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.trained, self.optimizer = self.group.wrap(self.model, self._own_optimizer, self.config)
        try:
            yield
        finally:
            if self.config.gradient_checkpointing:
                self.model.gradient_checkpointing_disable()
            self.group.close()
            if self.group.is_main:
                self.directory.write_tables()
            self.group.wait()

    def _rewind_logs(self, step: int) -> None:
        for lines in (self.directory.metrics, self.directory.evaluations):
            lines.keep(lambda record: record["step"] <= step)  # later steps are made again
        records = self.directory.metrics.read()
        if [record["step"] for record in records] != list(range(1, step + 1)):
            problem = f"{self.directory.metrics.path}: not one line for each of the steps 1 to {step} of the checkpoint"
            raise RunDirectoryError(problem, "restore the file, or start a new run directory")
        self._clipped = sum(record["clipped"] for record in records)


@contextmanager
def open_session(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: SFTConfig,
    directory: RunDirectory,
    evaluation: Mapping[str, Any],
    keep_weights: bool = True,
) -> Iterator[Session]:
    """Bring a run to its last checkpoint or to step 0, and clean up afterwards."""
    group = join_processes(config)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([group.device] if group.device.type == "cuda" else []))
        if group.is_main:
            stack.enter_context(directory.locked())
        model.to(group.device)
        set_weights_dtype(model, config)
        changes: JSONDict = {}
        if group.is_main:
            changes = check_identity(directory, model, examples, config, evaluation)
        group.wait()
        finished = directory.result.exists()
        session = Session(directory, model, tokenizer, config, group, StopRequest(), finished, keep_weights)
        # A finished run without weights is only read.
        start = None if finished and not keep_weights else checkpoint_to_continue(directory, finished)
        if start:
            checkpoints.load_weights(start, model)
        stack.callback(model.eval)
        if not session.finished:
            stack.enter_context(session.stop)
            stack.enter_context(session.prepared(start, changes))
        yield session


def join_processes(config: SFTConfig) -> SingleProcess:
    """Connect the processes of a launch and choose how they train."""
    size = processes.world_size()
    if size == 1:
        return SingleProcess()
    if config.normalization == "handout":
        problem = f"{type(config).__name__}.normalization is 'handout' with {size} processes, which change its weights"
        raise ConfigError(problem, "use normalization='tokens', or one process")
    sharded = fsdp.is_requested()
    processes.join()
    return fsdp.FullySharded() if sharded else DataParallel()


def checkpoint_to_continue(directory: RunDirectory, finished: bool) -> checkpoints.Checkpoint | None:
    """Find the newest whole checkpoint whose steps are all in the log."""
    if finished:
        last = checkpoints.newest_checkpoint(directory.checkpoints)
        if last is None or last.step != read_json(directory.result)["steps"]:
            problem = f"{directory.path}: finished, but its last checkpoint is missing or damaged"
            raise RunDirectoryError(problem, f"load the model from {directory.final}, or start a new run directory")
        return last
    steps = [record["step"] for record in directory.metrics.read()]
    newest = None
    for checkpoint in checkpoints.list_checkpoints(directory.checkpoints):
        newest = newest or checkpoint
        if steps[: checkpoint.step] == list(range(1, checkpoint.step + 1)):
            return checkpoint
        _log.warning("%s: ends before step %d; using an older checkpoint", directory.metrics.path, checkpoint.step)
    return newest
