"""What expert iteration leaves behind, read from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.errors import RunDirectoryError
from cs336_sft.evaluation.evaluate import read_generations
from cs336_sft.records import Graded
from cs336_sft.utils.files import JsonLines, Record, read_json

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ExpertIterationResult:
    """The outcome of ``expert_iteration``.

    Attributes:
        run_dir: its directory.
        rounds: one flat record a finished round, from round 0, the start:

            - ``round``, ``steps`` (optimizer steps of the round), ``total_steps``, ``weights`` (their fingerprint);
            - the validation metrics after the round, named as in ``Metrics``: ``accuracy``, ``accuracy_low``, ...;
            - ``rollout_...``: of the samples that the policy *before* the round's training wrote (``rollout_metrics``),
              and ``engine_gap``;
            - ``kept_...``: of what was trained on (``kept_metrics``); ``would_keep``: what the filter would keep;
            - ``first_loss``, ``last_loss``: of the round's training;
            - ``..._seconds``, and on a GPU ``..._peak_gib`` of each phase.
        test: metrics on the test problems after the last round, if there were any.
        interrupted: stopped before the last round; calling ``expert_iteration`` again goes on.
    """

    run_dir: Path
    rounds: tuple[Record, ...]
    test: Record | None
    interrupted: bool

    def frame(self) -> pandas.DataFrame:
        """``rounds`` as a table indexed by round."""
        import pandas

        return pandas.DataFrame.from_records(self.rounds).set_index("round")

    def rollouts(self, round_number: int) -> tuple[Graded, ...]:
        """All samples of a round with their (honest) verdicts, question by question.

        Raises:
            DataError: the round was not sampled.
        """
        return read_generations(round_folder(self.run_dir, round_number) / "graded.jsonl")

    def selected(self, round_number: int) -> list[Record]:
        """What a round trained on: ``round``, ``source`` (``rollout`` or ``human``), ``policy`` (fingerprint of the
        weights that sampled it), ``id``, ``sample``, ``text``, the verdicts, ``prompt_ids`` and ``response_ids``."""
        return JsonLines(round_folder(self.run_dir, round_number) / "selected.jsonl").read()


def round_folder(run_dir: Path, round_number: int) -> Path:
    """The folder of a round.

    >>> round_folder(Path("runs"), 3).name
    'round-03'
    """
    return run_dir / f"round-{round_number:02d}"


def load_expert_iteration(run_dir: str | Path) -> ExpertIterationResult:
    """Read the outcome of expert iteration, finished or not.

    Raises:
        RunDirectoryError: the directory is none of expert iteration, or a file in it is damaged.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "config.json").exists() or "rollouts" not in read_json(run_dir / "config.json"):
        raise RunDirectoryError(
            f"{run_dir}: holds no expert iteration", "give the directory that `cs336-sft ei --out` made"
        )
    result = run_dir / "result.json"
    return ExpertIterationResult(
        run_dir=run_dir,
        rounds=tuple(JsonLines(run_dir / "rounds.jsonl").read()),
        test=read_json(result)["test"] if result.exists() else None,
        interrupted=not result.exists(),
    )
