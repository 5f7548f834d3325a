"""Keep a run of expert iteration on disk. Every process runs the same loop, the main one reads and writes these files:

round-01/    graded.jsonl, all samples; selected.jsonl and plan.json, the training examples; sft/, their training
rounds.jsonl, rounds.csv     one record per finished round; config.json: settings and inputs; rollouts/: the cache
final/, result.json          the model and the test metrics, after the last round
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.evaluation.evaluate import RewardFn
from cs336_sft.evaluation.generations_file import read_generations, write_generations
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.selection import Selection
from cs336_sft.generation.sampler import Sampler
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Graded, Problem
from cs336_sft.training import checkpoints
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.setup import fingerprint_problems, free_fields, save_model, set_weights_dtype, versions
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import (
    JSONDict,
    JsonLines,
    plain,
    read_json,
    replace_folder,
    write_csv,
    write_json,
    write_jsonl,
)
from cs336_sft.utils.interrupts import StopRequest

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ExpertIterationResult:
    """The outcome of expert iteration."""

    run_dir: Path
    # A flat record per finished round, from round 0, the start: the validation metrics after it, `rollout_...` (samples
    # of the policy before the training), `kept_...`, `engine_gap`, `steps`, losses, `..._seconds` of each phase.
    rounds: tuple[JSONDict, ...]
    test: JSONDict | None  # metrics on the test problems after the last round, if there were any
    interrupted: bool  # stopped before the last round; the same call resumes the run

    def frame(self) -> pandas.DataFrame:
        """Return ``rounds`` as a table indexed by round."""
        import pandas

        return pandas.DataFrame.from_records(self.rounds).set_index("round")

    def rollouts(self, number: int) -> tuple[Graded, ...]:
        """Return all samples of a round, graded, question by question."""
        return read_generations(round_folder(self.run_dir, number) / "graded.jsonl")

    def selected(self, number: int) -> list[JSONDict]:
        """Return the rows that a round trained on: origin, text, rewards and ids."""
        return JsonLines(round_folder(self.run_dir, number) / "selected.jsonl").read()


def round_folder(run_dir: Path, number: int) -> Path:
    return run_dir / f"round-{number:02d}"


def load_expert_iteration(run_dir: str | Path) -> ExpertIterationResult:
    """Read the outcome of expert iteration, finished or not."""
    run_dir = Path(run_dir)
    if not (run_dir / "config.json").exists() or "questions_per_round" not in read_json(run_dir / "config.json"):
        raise RunDirectoryError(f"{run_dir}: holds no expert iteration", "give a folder that `cs336-sft ei` made")
    result = run_dir / "result.json"
    return ExpertIterationResult(
        run_dir=run_dir,
        rounds=tuple(JsonLines(run_dir / "rounds.jsonl").read()),
        test=read_json(result)["test"] if result.exists() else None,
        interrupted=not result.exists(),
    )


class RunFolder:
    """The state of a run: ``records`` of its finished rounds, and the model's weights that belong to them."""

    def __init__(self, directory: RunDirectory, model: PreTrainedModel, config: ExpertIterationConfig) -> None:
        self.directory, self.path = directory, directory.path
        self.model, self.config = model, config
        self.main = processes.is_main()
        self.log = JsonLines(self.path / "rounds.jsonl")
        self.records: list[JSONDict] = []
        self.finished = False
        self._start: dict[str, torch.Tensor] = {}

    def check_identity(self, identity: JSONDict) -> None:
        """Store the identity of a new run, or compare it with that of an existing one."""
        records, free = self.log.read(), free_fields(self.config) | {"rounds", "chunk_questions", "keep_rounds"}
        if (self.path / "config.json").exists():
            stored, done = read_json(self.path / "config.json"), len(records) - 1
            known = {record["weights"] for record in records}
            if identity["starting_weights"] in known and self.config.train_from == "previous":
                # In a notebook the model in memory is often the one that this run has trained.
                identity = identity | {"starting_weights": stored.get("starting_weights")}
            elif identity["starting_weights"] != stored.get("starting_weights"):
                problem = f"{self.path}: the model does not have the weights that the run started from"
                raise RunDirectoryError(problem, "load the starting model again, or choose a new run directory")
            if self.config.rounds < done:
                problem = f"{self.path}: {done} rounds are finished, {self.config.rounds} are asked for"
                raise RunDirectoryError(problem, f"set rounds to at least {done}, or choose a new run directory")
            old, new = stored.get("samples_per_round"), identity["samples_per_round"]
            if old and new and all(a == b for a, b in zip(old, new, strict=False)):
                free.add("samples_per_round")  # of further rounds
            if not (round_folder(self.path, 1) / "plan.json").exists():
                free.add("selection_grader_function")  # it was not used yet, or raised an error and was corrected
        self.directory.check_config(identity, free)
        self.log.keep(lambda _record: True)  # drops a line that was cut off
        self.directory.add_session(versions(self.model.device) | {"from_round": len(records)})

    def restore(self) -> None:
        """Load the finished rounds, and the weights of the last one that trained."""
        if self.config.train_from == "start":
            self._start = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters()}
        finished = self.directory.result
        if self.main and finished.exists() and read_json(finished)["rounds"] < self.config.rounds:
            finished.unlink()  # more rounds are asked for now
        # As the main process finds it when all begin: it may write while another one reads.
        self.records, self.finished = processes.gather((self.log.read(), finished.exists()))[0]
        if trained := [record["round"] for record in self.records if record["steps"]]:
            folder = round_folder(self.path, trained[-1]) / "sft" / "checkpoints"
            checkpoint = checkpoints.newest_checkpoint(folder)
            if checkpoint is None:
                raise RunDirectoryError(f"{folder}: no usable checkpoint", "start a new run directory")
            with torch.no_grad():
                checkpoints.load_weights(checkpoint, self.model)

    def load_start_weights(self) -> None:
        """Restore the weights that the run started from, if each round trains them."""
        for name, parameter in self.model.named_parameters():
            if name in self._start:
                parameter.data.copy_(self._start[name])

    def keep_selection(self, number: int, graded: Sequence[Graded], selection: Selection) -> Selection:
        """Write a round's samples and selection, and return the main process's.

        A selection that is on disk already is returned instead: a resumed round trains on what it began with.
        """
        folder, policy = round_folder(self.path, number), self.records[-1]["weights"]
        plan = folder / "plan.json"
        if self.main and plan.exists():
            selection = Selection(JsonLines(folder / "selected.jsonl").read(), **read_json(plan))
        elif self.main:
            folder.mkdir(exist_ok=True)
            write_generations(folder / "graded.jsonl", graded)
            rows = [row | {"policy": policy if row["source"] == "rollout" else None} for row in selection.rows]
            write_jsonl(folder / "selected.jsonl", rows)
            write_json(plan, {name: value for name, value in asdict(selection).items() if name != "rows"})
        return processes.gather(selection if self.main else None)[0]

    def add(self, record: JSONDict, report: Callable[[JSONDict], Any] | None) -> None:
        """Add the record of a finished round, and drop the weights of old ones."""
        total = record["steps"] + sum(earlier["steps"] for earlier in self.records)
        weights = checkpoints.fingerprint_weights(self.model) if self.main else None
        record = plain(record | {"total_steps": total, "weights": weights})
        self.records.append(record)
        if not self.main:
            return
        self.log.append(record)
        write_csv(self.path / "rounds.csv", self.records)
        trained = [record["round"] for record in self.records if record["steps"]]
        for old in trained[: -self.config.keep_rounds] if self.config.keep_rounds else ():
            for name in ("checkpoints", "final"):
                shutil.rmtree(round_folder(self.path, old) / "sft" / name, ignore_errors=True)
        if report is not None:
            report(record)

    def finish(self, tokenizer: PreTrainedTokenizerBase, test: JSONDict | None) -> None:
        """Write the final model and the test metrics, which complete the run."""
        if self.main:
            replace_folder(self.directory.final, lambda to: save_model(self.model, tokenizer, to))
            write_json(self.directory.result, {"rounds": self.config.rounds, "test": test and plain(test)})
        processes.gather(None)  # the others read the result after it was written


@contextmanager
def open_run(
    run_dir: str | Path,
    model: PreTrainedModel,
    config: ExpertIterationConfig,
    template: PromptTemplate,
    sampler: Sampler | None,
    selection_grader: RewardFn | None,
    pool: Sequence[Problem],
    validation: Sequence[Problem],
    test: Sequence[Problem],
) -> Iterator[RunFolder]:
    """Lock a run's folder, check that it is the same run, and restore its last round.

    Ctrl-C in the main process ends the block quietly.
    Raises ConfigError: the main process has no sampler, or the pool has fewer problems than a round asks for.
    Raises RunDirectoryError: the folder is in use, or settings, problems, weights, template, sampler or grader differ.
    """
    if len(pool) < config.questions_per_round:
        problem = f"questions_per_round is {config.questions_per_round}, the pool has {len(pool)}"
        raise ConfigError(problem, "lower it, or give more problems")
    problems = {"pool": pool, "validation": validation, "test": test}
    processes.join()
    if not processes.gather(sampler is not None)[0]:
        raise ConfigError("the main process has no sampler", "give one, for instance HFSampler(model, tokenizer)")
    directory = RunDirectory(run_dir)
    model.to(processes.own_device())
    set_weights_dtype(model, config)
    run = RunFolder(directory, model, config)
    with ExitStack() as stack:
        stack.callback(model.eval)
        if run.main:
            stack.enter_context(directory.locked())
            stack.enter_context(stack.enter_context(StopRequest()).at_once())
            identity = {
                **config.to_dict(),
                "starting_weights": checkpoints.fingerprint_weights(model),
                "template": template.fingerprint,
                "sampler": engine_name(sampler),
                "selection_grader_function": selection_grader and function_identity(selection_grader),
                **{name: fingerprint_problems(values) for name, values in problems.items()},
            }
            run.check_identity(identity)
        run.restore()
        try:
            yield run
        except KeyboardInterrupt:
            if not run.main:
                raise


def engine_name(sampler: Sampler) -> str:
    """Name the engine, and the type it computes in if that is not the policy's."""
    dtype = getattr(getattr(sampler, "config", None), "dtype", None)
    return type(sampler).__name__ + (f"/{dtype}" if dtype else "")


def function_identity(function: Callable[..., Any]) -> str:
    """Name a function by its name and a hash of its source, if that can be read."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        source = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):
        return name
    return f"{name} {hashlib.sha256(inspect.cleandoc(source).encode()).hexdigest()[:16]}"
