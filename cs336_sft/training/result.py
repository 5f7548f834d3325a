"""The result of a fine-tuning run, read from its directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cs336_sft.errors import ConfigError, RunDirectoryError
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import JSONDict, read_json


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of ``train_sft``.

    ``metrics`` has a record for each step: ``step``, ``epoch``, ``loss`` (mean NLL of its target tokens, nats), ``lr``,
    ``grad_norm`` (before clipping), ``clipped``, ``clipped_share`` (of the steps so far), ``target_tokens``,
    ``tokens``, ``seconds``, ``tokens_per_second``; ``evaluations`` has the evaluator's (None for nan and infinities).
    """

    run_dir: Path
    steps: int  # finished optimizer steps
    interrupted: bool  # stopped before its last step; `train_sft` called again continues it
    metrics: tuple[JSONDict, ...]
    evaluations: tuple[JSONDict, ...]

    def best(self, metric: str) -> JSONDict:
        """Return the evaluation with the highest value, the earliest of equals.

        >>> evaluations = ({"step": 0, "accuracy": 0.1}, {"step": 4, "accuracy": 0.7}, {"step": 8, "accuracy": 0.7})
        >>> TrainingResult(Path(), 8, False, (), evaluations).best("accuracy")
        {'step': 4, 'accuracy': 0.7}
        """
        having = [record for record in self.evaluations if record.get(metric) is not None]
        if not having:
            names = sorted({name for record in self.evaluations for name in record}) or ["nothing: there are none"]
            raise ConfigError(f"no evaluation has a value of {metric!r}", f"choose from {', '.join(names)}")
        return max(having, key=lambda record: record[metric])


def load_result(run_dir: str | Path) -> TrainingResult:
    """Read the outcome of a run, finished or not, without training."""
    run = RunDirectory(run_dir)
    if not (run.path / "config.json").exists():
        raise RunDirectoryError(f"{run.path}: is not a run (no config.json)", "give the directory of a run")
    steps = tuple(run.metrics.read())
    finished = run.result.exists()
    count = read_json(run.result)["steps"] if finished else len(steps)
    return TrainingResult(run.path, count, not finished, steps, tuple(run.evaluations.read()))


def without_wall_clock(records: Iterable[JSONDict]) -> list[JSONDict]:
    """Drop the times of records: two runs of the same seed share the rest.

    >>> without_wall_clock([{"step": 1, "loss": 2.0, "seconds": 0.3, "eval_seconds": 0.1, "tokens_per_second": 5.0}])
    [{'step': 1, 'loss': 2.0}]
    """
    times = ("seconds", "_per_second")
    return [{name: value for name, value in record.items() if not name.endswith(times)} for record in records]
