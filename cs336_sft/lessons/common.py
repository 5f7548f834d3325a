"""What every lesson uses: the repository's folder, claims of the text, records, and differences put into words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, variance
from typing import TYPE_CHECKING

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import CONFIDENCE, Interval, paired_difference_over_seeds, student_t_quantile
from cs336_sft.evaluation.outcomes import is_correct
from cs336_sft.experiments.profiles import Profile, get_profile
from cs336_sft.experiments.record import read_recorded
from cs336_sft.model.loading import best_device, load_model_and_tokenizer, quiet_libraries
from cs336_sft.prompts import PromptTemplate, get_template

if TYPE_CHECKING:
    import pandas

# The repository around the notebook, or the one that the package was installed from.
ROOT = next((p for p in (Path.cwd(), *Path.cwd().parents) if (p / "recorded").is_dir()), Path(__file__).parents[2])


def begin() -> tuple[Profile, PromptTemplate, Callable]:
    """Return the profile, its template, and what loads its base model and tokenizer."""
    quiet_libraries()
    profile = get_profile()
    load = partial(load_model_and_tokenizer, profile.model_source(), device=best_device())
    return profile, get_template(profile.template), load


def claim(holds: bool, text: str) -> None:
    """Check a claim of a notebook's text, and print the result.

    The texts were written for the embedded model, where a false claim is an AssertionError. With another profile it is
    only reported.
    """
    if not holds and get_profile().name == "tiny":
        raise AssertionError(f"the text claims: {text}. Here it is not so")
    print("ok:" if holds else "not so with this profile:", text)


def told(gap: Interval, unit: str = "points") -> str:
    """Tell a difference in words: higher, lower or can't tell.

    Fractions are shown in points, as "+5.0 points [+1.0, +9.0]: higher"; with another unit the numbers stay.
    """
    word = "higher" if gap.low > 0 else "lower" if gap.high < 0 else "can't tell"
    value, low, high = (f"{100 * x:+.1f}" if unit == "points" else f"{x:+.3f}" for x in (gap.value, gap.low, gap.high))
    return f"{value} {unit} [{low}, {high}]: {word}"


def outcomes(runs: pandas.DataFrame, lenient: bool = False) -> list[list[float]]:
    """List each problem's outcome for each seed (of several runs of a seed, the mean)."""
    seeds = [[is_correct(letters, lenient) for letters in part["outcomes"]] for _, part in runs.groupby("seed")]
    return [list(map(fmean, zip(*seed, strict=True))) for seed in seeds]


def accuracy_interval(solved: Sequence[Sequence[float]]) -> Interval:
    """Compute an accuracy over seeds and problems, the difference to solving nothing."""
    return paired_difference_over_seeds([[0.0] * len(solved[0])] * len(solved), solved)


def tell(label: str, first: pandas.DataFrame | Callable, second: pandas.DataFrame | Callable) -> None:
    """Print the second side minus the first, strict and lenient.

    A side is recorded runs, or a function that takes `lenient` and returns the outcomes of each seed.
    """
    for name, lenient in (("strict", False), ("lenient", True)):
        sides = (side(lenient) if callable(side) else outcomes(side, lenient) for side in (first, second))
        print(f"{label}, {name:7}: {told(paired_difference_over_seeds(*sides))}")


def rate_difference(first: Sequence[float], second: Sequence[float], n: int) -> Interval:
    """Compute the interval of a mean difference where only rates are known.

    One rate a seed, each over the same n problems. It adds the spread of the seeds to the noise of the problems, as if
    the two sides had answered different ones, which is cautious.
    """
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    of_problems = sum(fmean(side) * (1 - fmean(side)) for side in (first, second)) / n
    of_seeds = variance(gaps) / len(gaps)
    total, mean = of_problems + of_seeds, fmean(gaps)
    degrees = total**2 / (of_problems**2 / n + of_seeds**2 / (len(gaps) - 1))
    half = student_t_quantile(CONFIDENCE, int(degrees)) * total**0.5
    return Interval(mean, mean - half, mean + half)


def open_recorded(name: str, folder: Path = ROOT / "recorded") -> pandas.DataFrame:
    """Open the sweep `NAME.json` anywhere below `folder`, or raise DataError.

    `name` is a grid of `recipes/grids`. Where runs of the grid are missing, it says so.
    """
    path = next(iter(sorted(folder.rglob(f"{name}.json"))), None)
    if path is None:
        recipe = f"python recipes/record_grids.py --out recorded --parts {name} --budget 3600"
        raise DataError(f"recorded/ has no {name}.json", f"this makes it: {recipe}")
    frame = read_recorded(path)
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
