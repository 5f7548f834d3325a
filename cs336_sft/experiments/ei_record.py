"""Recorded experiments in expert iteration: JSON files that ``recipes/record_expert_iteration.py`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import Interval, difference_interval, mean_interval, wilson_interval
from cs336_sft.utils.files import JSONDict


@dataclass(frozen=True)
class EIRecord:
    """A recorded experiment: several arms with several seeds."""

    about: Mapping[str, Any]  # device, date, versions, configuration, arguments
    runs: Mapping[str, Mapping[int, JSONDict]]  # arm -> seed -> rounds (as of ExpertIterationResult), test, seconds
    failed: tuple[tuple[str, int, str], ...]  # arm, seed and error of each run that did not finish

    def rounds(self, *arms: str) -> dict[str, list[list[JSONDict]]]:
        """Return the recorded arms (of these, if given) for ``plot_rounds``."""
        wanted = [arm for arm in arms or self.runs if arm in self.runs]
        return {arm: [run["rounds"] for run in self.runs[arm].values()] for arm in wanted}

    def values(self, arm: str, metric: str, where: int | str = -1) -> dict[int, float]:
        """Return a metric by seed: after the last round, another one, or on ``"test"``."""
        found = {}
        for seed, run in self.runs.get(arm, {}).items():
            source = run.get("test") if where == "test" else run["rounds"][where]
            if source and source.get(metric) is not None:
                found[seed] = source[metric]
        return found

    def difference(self, first: str, second: str, metric: str, where: int | str = -1) -> Interval | None:
        """Subtract ``first`` from ``second``, with a 95 % interval.

        With three or more common seeds: of the mean over seeds (Student's t), for these problems. With one or two: of
        two rates on so many problems (``difference_interval``). Seeds share their problems, which count once. None
        without common seeds or numbers of problems.
        """
        return self._difference((first, where), (second, where), metric)

    def gain(self, arm: str, metric: str) -> Interval | None:
        """Subtract the start from the last round, likewise."""
        return self._difference((arm, 0), (arm, -1), metric)

    def _difference(self, first: tuple[str, int | str], second: tuple[str, int | str], metric: str) -> Interval | None:
        before, after = self.values(first[0], metric, first[1]), self.values(second[0], metric, second[1])
        seeds = before.keys() & after.keys()
        if len(seeds) > 2:
            return mean_interval([after[seed] - before[seed] for seed in sorted(seeds)])
        sides = []
        for (arm, where), values in ((first, before), (second, after)):
            sizes = self.values(arm, "n_problems", where)
            if not seeds or not seeds <= sizes.keys():
                return None
            n = min(sizes[seed] for seed in seeds)
            sides.append(wilson_interval(n * fmean(values[seed] for seed in seeds), n))
        return difference_interval(*sides)


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
