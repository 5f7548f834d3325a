"""What a fine-tuning run leaves behind, read from its directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import Record, read_json

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of ``train_sft``.

    Attributes:
        run_dir: the run's directory.
        steps: finished optimizer steps.
        interrupted: the run was stopped before its last step; calling ``train_sft`` again goes on.
        metrics: one record a step: ``step``, ``epoch``, ``loss`` (mean negative log-likelihood of the step's target
            tokens, nats), ``lr``, ``grad_norm`` (before clipping), ``clipped`` (0 or 1), ``clipped_share`` (of the
            steps so far), ``target_tokens`` (that the loss counts), ``tokens`` (prompt and response, no padding),
            ``entropy`` (nats, mean over target tokens; on the steps that log it), ``handout_loss`` (with that
            normalisation), ``seconds``, ``tokens_per_second``.
        evaluations: one record an evaluation: ``step``, ``epoch``, what the evaluator returned, ``seconds``.
            A value that was nan or infinite is None.
    """

    run_dir: Path
    steps: int
    interrupted: bool
    metrics: tuple[Record, ...]
    evaluations: tuple[Record, ...]

    def best(self, metric: str = "accuracy", mode: Literal["max", "min"] = "max") -> Record:
        """The evaluation with the best value of a metric; of equal ones the earliest.

        Raises:
            ConfigError: no evaluation has that metric.

        >>> evaluations = ({"step": 0, "accuracy": 0.1}, {"step": 4, "accuracy": 0.7}, {"step": 8, "accuracy": 0.7})
        >>> TrainingResult(Path(), 8, False, (), evaluations).best("accuracy")
        {'step': 4, 'accuracy': 0.7}
        """
        having = [record for record in self.evaluations if record.get(metric) is not None]
        if not having:
            names = sorted({name for record in self.evaluations for name in record}) or ["nothing: there are none"]
            raise ConfigError(f"no evaluation has a value of {metric!r}", f"choose from {', '.join(names)}")
        pick = max if mode == "max" else min
        return pick(having, key=lambda record: record[metric])  # both return the first of equals

    def metrics_frame(self) -> pandas.DataFrame:
        """``metrics`` as a table indexed by step."""
        return _frame(self.metrics)

    def evaluations_frame(self) -> pandas.DataFrame:
        """``evaluations`` as a table indexed by step."""
        return _frame(self.evaluations)


def load_result(run_dir: str | Path) -> TrainingResult:
    """Read the outcome of a run, finished or not, without training.

    Raises:
        RunDirectoryError: the directory is no run, or a file in it is damaged.
    """
    run = RunDirectory(run_dir)
    if not (run.path / "config.json").exists():
        raise RunDirectoryError(f"{run.path}: is not a run (no config.json)", "give the directory of a run")
    steps = tuple(run.metrics.read())
    finished = run.result.exists()
    return TrainingResult(
        run_dir=run.path,
        steps=read_json(run.result)["steps"] if finished else len(steps),
        interrupted=not finished,
        metrics=steps,
        evaluations=tuple(run.evaluations.read()),
    )


def is_wall_clock(field: str) -> bool:
    """Whether a field of a record is a time, which differs from run to run; all others are reproducible.

    >>> [is_wall_clock(field) for field in ("seconds", "tokens_per_second", "eval_seconds", "loss")]
    [True, True, True, False]
    """
    return field == "seconds" or field.endswith(("_seconds", "_per_second"))


def without_wall_clock(records: Iterable[Record]) -> list[Record]:
    """Records without their times: what two runs of the same seed must have in common.

    >>> without_wall_clock([{"step": 1, "loss": 2.0, "seconds": 0.3}])
    [{'step': 1, 'loss': 2.0}]
    """
    return [{name: value for name, value in record.items() if not is_wall_clock(name)} for record in records]


def _frame(records: tuple[Record, ...]) -> pandas.DataFrame:
    import pandas

    frame = pandas.DataFrame.from_records(records)
    return frame.set_index("step") if len(frame) else frame
