"""The recorded sweeps that come with the course, opened by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.experiments.record import read_recorded

if TYPE_CHECKING:
    import pandas


def find_recorded(folder: str | Path, name: str) -> Path | None:
    """Find `NAME.json` anywhere below `folder`, or return None."""
    return next(iter(sorted(Path(folder).rglob(f"{name}.json"))), None)


def open_recorded(
    folder: str | Path, name: str, read: Callable[[Path], pandas.DataFrame] = read_recorded
) -> pandas.DataFrame | None:
    """Open a recorded sweep, or say what makes it and return None.

    `name` is a grid of `recipes/grids`, `read` read_recorded (evaluations) or recorded_losses (training curves).
    """
    path = find_recorded(folder, name)
    if path is None:
        print(f"recorded/ has no {name}.json, so nothing is shown of it. This makes it:")
        print(f"    python recipes/record_grids.py --out recorded --parts {name} --budget 3600")
        return None
    frame = read(path)
    made, planned = frame["run"].nunique(), frame.attrs.get("record", {}).get("runs_planned", 0)
    if made < planned:
        print(f"{name}: {made} of the {planned} runs of the grid are recorded")
    return frame


def recorded_on(frame: pandas.DataFrame) -> str:
    """Describe device, day, seeds and problems of a recorded sweep, for titles.

    >>> import pandas
    >>> frame = pandas.DataFrame({"seed": [0, 1, 2], "n_problems": [256, 256, 256]})
    >>> frame.attrs["record"] = {"device": "cpu", "date": "2026-11-24T11:54:26+00:00"}
    >>> recorded_on(frame)
    'recorded on CPU cores, 2026-11-24; 3 seeds, 256 validation problems'
    """
    about, seeds = frame.attrs["record"], frame["seed"].nunique()
    made = f"recorded on {about['device'].replace('cpu', 'CPU cores')}, {about['date'][:10]}"
    return f"{made}; {seeds} seed{'s' if seeds > 1 else ''}, {frame['n_problems'].max()} validation problems"
