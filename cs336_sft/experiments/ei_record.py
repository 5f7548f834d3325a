"""Recorded experiments in expert iteration: JSON files that ``recipes/record_expert_iteration.py`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_sft.errors import DataError
from cs336_sft.utils.files import JSONDict


@dataclass(frozen=True)
class EIRecord:
    """A recorded experiment: several arms with several seeds."""

    about: Mapping[str, Any]  # device, date, versions, configuration, arguments
    runs: Mapping[str, Mapping[int, JSONDict]]  # arm -> seed -> rounds (as of ExpertIterationResult), test, seconds
    failed: tuple[tuple[str, int, str], ...]  # arm, seed and error of each run that did not finish

    def values(self, arm: str, metric: str, where: int | str = -1) -> dict[int, float]:
        """Return a metric by seed: after the last round, another one, or on ``"test"``."""
        found = {}
        for seed, run in self.runs.get(arm, {}).items():
            source = run.get("test") if where == "test" else run["rounds"][where]
            if source and source.get(metric) is not None:
                found[seed] = source[metric]
        return found


def read_ei_record(path: str | Path) -> EIRecord:
    """Read a recorded experiment, or raise DataError."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        runs = content.pop("runs")
        finished: dict[str, dict[int, JSONDict]] = {}
        for run in sorted(runs, key=lambda run: run["seed"]):
            if "error" not in run:
                finished.setdefault(run["arm"], {})[run["seed"]] = run
        failed = tuple((run["arm"], run["seed"], run["error"]) for run in runs if "error" in run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "give a file that recipes/record_expert_iteration.py wrote"
        raise DataError(f"{path}: holds no recorded expert iteration ({error!r})", remedy) from error
    return EIRecord(content, finished, failed)
