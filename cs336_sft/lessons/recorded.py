"""The measurements that come with the course, opened by name: the sweeps below the folder ``recorded/``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.experiments.record import read_recorded

if TYPE_CHECKING:
    import pandas


def find_recorded(folder: str | Path, name: str) -> Path | None:
    """The file ``NAME.json``, wherever below ``folder`` it lies; the first by name if there are several.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "topic").mkdir(), Path(folder, "topic", "lr.json").write_text("{}")
    ...     print(find_recorded(folder, "lr").name, find_recorded(folder, "size"))
    lr.json None
    """
    return next(iter(sorted(Path(folder).rglob(f"{name}.json"))), None)


def open_recorded(
    folder: str | Path, name: str, read: Callable[[Path], pandas.DataFrame] = read_recorded
) -> pandas.DataFrame | None:
    """A recorded sweep, or None with a line that says what makes it; a record with runs missing says so too.

    Args:
        folder: ``recorded`` of the repository.
        name: of the grid in ``recipes/grids``.
        read: ``read_recorded`` for the evaluations, ``recorded_losses`` for the training curves.

    Raises:
        DataError: the file is no record of a sweep.

    >>> open_recorded("recorded/nowhere", "lr_grid")
    recorded/ has no lr_grid.json, so nothing is shown of it. This makes it:
        python recipes/record_grids.py --out recorded --parts lr_grid --budget 3600
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
    """Device, day, seeds and problems of a recorded sweep or a part of it, for titles.

    >>> import pandas
    >>> frame = pandas.DataFrame({"seed": [0, 1, 2], "n_problems": [256, 256, 256]})
    >>> frame.attrs["record"] = {"device": "cpu", "date": "2026-11-24T11:54:26+00:00"}
    >>> recorded_on(frame)
    'recorded on CPU cores, 2026-11-24; 3 seeds, 256 validation problems'
    """
    about = frame.attrs["record"]
    seeds = frame["seed"].nunique()
    return (
        f"recorded on {about['device'].replace('cpu', 'CPU cores')}, {about['date'][:10]}; "
        f"{seeds} seed{'s' if seeds > 1 else ''}, {frame['n_problems'].max()} validation problems"
    )
