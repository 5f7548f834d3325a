"""What belongs to the learner, in `my_notebooks/`: copies of the notebooks, and predictions."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError, DataError
from cs336_sft.lessons.common import ROOT
from cs336_sft.utils.files import read_json, write_json

NOTEBOOKS, OWN = ROOT / "notebooks", ROOT / "my_notebooks"


def copy_notebooks() -> list[Path]:
    """Copy the notebooks that are not there yet, without outputs. Return the paths."""
    made = []
    for source in sorted(NOTEBOOKS.rglob("*.ipynb")):
        copy = OWN / source.relative_to(NOTEBOOKS)
        if copy.exists() or ".ipynb_checkpoints" in source.parts:
            continue
        notebook = json.loads(source.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        notebook["metadata"].pop("widgets", None)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        made.append(copy)
    return made


def predict(name: str, low: float | None, high: float | None) -> None:
    """Store the range in which you expect a number.

    `None, None` stores nothing, nor does anything where the variable CS336_PREDICT is `skip`. A range may be changed
    until `reveal` has shown the number. Raises ConfigError: no range.
    """
    if (low is None and high is None) or os.environ.get("CS336_PREDICT") == "skip":
        return
    if not all(isinstance(end, int | float) for end in (low, high)) or not low <= high:
        raise ConfigError(f"{name}: from {low} to {high}", "give two numbers, first the smaller one")
    known, mine = _predictions(), {"low": low, "high": high}
    if "measured" not in known.get(name, {}):
        write_json(OWN / "predictions.json", known | {name: mine})
    elif not mine.items() <= known[name].items():
        print("The answer has been shown: what counts is your first range.")


def reveal(name: str, measured: float, unit: str = "") -> None:
    """Print a measured number, and whether it lies in the predicted range.

    The first number shown is stored with the range.
    """
    number = f"{measured:,.0f}" if float(measured).is_integer() else f"{measured:.3g}"
    text = f"measured: {number} {unit}".rstrip()
    known = _predictions()
    if mine := known.get(name):
        if "measured" not in mine:
            mine["measured"] = float(measured)
            write_json(OWN / "predictions.json", known)
        holds = mine["low"] <= measured <= mine["high"]
        text += f"; you said {mine['low']:g} to {mine['high']:g}: {'it holds' if holds else 'it does not hold'}"
    print(text)


def prediction_states() -> dict[str, dict[str, str]]:
    """List the predictions of each lesson as `open`, `made`, `held` or `missed`."""
    known, states = _predictions(), {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        names = re.findall(r'predict\(\\"([\w-]+)\\"', path.read_text(encoding="utf-8"))
        states[path.stem] = {name: _state(known.get(name)) for name in names}
    return states


def cells_run(lesson: str) -> tuple[int, int]:
    """Count the code cells of the copy that have run, and all (0, 0 without one)."""
    if not (path := OWN / f"{lesson}.ipynb").is_file():
        return 0, 0
    cells = [cell for cell in read_json(path, DataError)["cells"] if cell["cell_type"] == "code"]
    return sum(cell["execution_count"] is not None for cell in cells), len(cells)


def _state(entry: dict[str, float] | None) -> str:
    if entry is None or "measured" not in entry:
        return "made" if entry else "open"
    return "held" if entry["low"] <= entry["measured"] <= entry["high"] else "missed"


def _predictions() -> dict[str, Any]:
    if os.environ.get("CS336_PREDICT") == "skip" or not (path := OWN / "predictions.json").exists():
        return {}
    return read_json(path, DataError, "delete it: your predictions are lost")
