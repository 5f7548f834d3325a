"""Summaries of sweeps: means over seeds with intervals, as a table and as two figures.

An interval over seeds (Student's t) is about the mean over seeds on these evaluation problems, which are the same for
all runs. One seed has the interval of its evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas
from matplotlib.figure import Figure

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import Interval, mean_interval
from cs336_sft.experiments import plots
from cs336_sft.experiments.config import SETTINGS, short_number
from cs336_sft.experiments.plots import RATES

SUMMARY_METRICS = (*RATES, "avg_gen_len")
_SEEDS = ("subset_seed", "seed")


def varied_settings(frame: pandas.DataFrame) -> list[str]:
    """List the settings, without seeds, that differ between runs of a table."""
    names = [name for name in SETTINGS if name in frame.columns and name not in _SEEDS]
    # A run without an adapter has no rank; that alone does not make the rank an axis.
    return [name for name in names if frame[name].nunique(dropna=name.startswith("lora_")) > 1]


def seed_interval(values: Sequence[float], *, low: float = -math.inf, high: float = math.inf) -> Interval:
    """Compute ``mean_interval`` within bounds, or a single value without width.

    >>> print(seed_interval([0.99, 1.0, 0.98], high=1.0))
    0.990 [0.965, 1.000]
    """
    if len(values) < 2:
        return Interval(values[0], values[0], values[0])
    interval = mean_interval(values)
    return Interval(interval.value, max(low, interval.low), min(high, interval.high))


def over_seeds(records: Sequence[Mapping[str, Any]], name: str, *, rate: bool) -> Interval:
    """Average a metric over the records that have it, one a seed.

    A single record gives its own interval (``<name>_low``, ``<name>_high``). A ``rate`` stays within 0..1.
    """
    there = [record for record in records if record.get(name) is not None]
    if len(there) == 1:
        return plots.recorded_interval(there[0], name)
    bounds = {"low": 0.0, "high": 1.0} if rate else {}
    return seed_interval([record[name] for record in there], **bounds)


def summarise(
    frame: pandas.DataFrame, by: Iterable[str] | None = None, metrics: Sequence[str] = SUMMARY_METRICS
) -> pandas.DataFrame:
    """Average metrics over seeds at each run's last evaluation, with 95 % intervals.

    ``frame`` is a table of ``read_recorded`` or ``sweep_frame``. Each combination of the settings ``by`` (default:
    those that vary) makes a row with ``<metric>``, ``<metric>_low`` and ``<metric>_high``.
    Raises DataError: no row, or a metric that is not there.
    """
    if "last" in frame:
        frame = frame[frame["last"]]
    if not len(frame):
        raise DataError("the table has no row", "give the evaluations of at least one run")
    missing = [name for name in metrics if name not in frame]
    if missing:
        raise DataError(f"the table has no column {missing[0]!r}", f"choose from {', '.join(map(str, frame.columns))}")
    by = list(varied_settings(frame) if by is None else by)
    rows = []
    for key, group in _groups(frame, by):
        rows.append(dict(zip(by, key, strict=True)) | {"runs": len(group)} | _means(group, metrics))
    return pandas.DataFrame(rows)


def _groups(frame: pandas.DataFrame, by: list[str]) -> Iterable[tuple[tuple[Any, ...], pandas.DataFrame]]:
    return frame.groupby(by, dropna=False, sort=True) if by else [((), frame)]


def _means(group: pandas.DataFrame, metrics: Sequence[str]) -> dict[str, float | None]:
    means = {}
    for name in metrics:
        records = group.dropna(subset=[name]).to_dict("records")
        rate = name.removeprefix("test_") in RATES
        interval = over_seeds(records, name, rate=rate) if records else Interval(None, None, None)
        means |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return means


def plot_sweep(
    frame: pandas.DataFrame,
    x: str,
    *,
    hue: str | None = None,
    metrics: Sequence[str] = SUMMARY_METRICS,
    title: str = "Last evaluation, mean over seeds (bars: 95 % intervals)",
) -> Figure:
    """Plot the metrics at the last evaluation over one setting, with intervals.

    Each value of the setting ``hue`` has a line. Settings that are neither ``x`` nor ``hue`` are averaged over with
    the seeds: filter the table first if they vary.
    """
    summary = summarise(frame, [name for name in (x, hue) if name], metrics)
    values = sorted(summary[x].unique(), key=_sort_key)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in map(_plain, values))
    logarithmic = numeric and min(values) > 0 and max(values) >= 4 * min(values)
    place = {value: value if numeric else index for index, value in enumerate(values)}
    lines = sorted(summary[hue].unique(), key=_sort_key) if hue else [None]
    figure, panels = plots.metric_panels(metrics, x.replace("_", " "))
    for panel, name in zip(panels, metrics, strict=True):
        for index, line in enumerate(lines):
            part = summary if hue is None else summary[summary[hue] == line]
            part = part.assign(place=[place[value] for value in part[x]]).sort_values("place").dropna(subset=[name])
            spread = [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
            label = "all" if hue is None else f"{hue.replace('_', ' ')} {show_value(line)}"
            bars = {"yerr": [side.clip(lower=0) for side in spread], "capsize": 3, "markersize": 5, "lw": 1.3}
            panel.errorbar(part["place"], part[name], label=label, **bars, **plots.line_style(index))
        if logarithmic:
            panel.set_xscale("log")
        panel.set_xticks([place[value] for value in values], [show_value(value) for value in values])
        panel.minorticks_off()
    if hue:
        plots.add_legend(figure)
    figure.suptitle(title)
    return figure


def mean_curves(
    frame: pandas.DataFrame, by: str | Sequence[str], metrics: Sequence[str] = SUMMARY_METRICS
) -> dict[str, list[dict[str, Any]]]:
    """Average evaluations over seeds, step by step, for ``plot_evaluations``."""
    by = [by] if isinstance(by, str) else list(by)
    curves: dict[str, list[dict[str, Any]]] = {}
    for key, group in _groups(frame, by):
        named = [f"{name.replace('_', ' ')} {show_value(value)}" for name, value in zip(by, key, strict=True)]
        steps = [{"step": int(step)} | _means(part, metrics) for step, part in group.groupby("step")]
        curves[", ".join(named) or "all runs"] = steps
    return curves


def plot_curves(
    frame: pandas.DataFrame,
    by: str | Sequence[str],
    *,
    metrics: Sequence[str] = SUMMARY_METRICS,
    title: str = "Mean over seeds (bands: 95 % intervals)",
) -> Figure:
    """Plot metrics over the steps, a curve for each combination of ``by``."""
    return plots.plot_evaluations(mean_curves(frame, by, metrics), metrics, title=title)


def show_value(value: Any) -> str:
    """Write a setting's value as figures and tables show it.

    >>> [show_value(value) for value in (1e-4, 8, True, "full", None, 0.5)]
    ['1e-4', '8', 'yes', 'full', '-', '0.5']
    """
    value = _plain(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short_number(value) if abs(value) < 1e-2 else f"{value:g}"
    return str(value)


def table_rows(
    summary: pandas.DataFrame, metrics: Sequence[str] = SUMMARY_METRICS
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of ``summarise``'s table, ready to print."""
    by = [name for name in summary.columns if name in SETTINGS]
    header = [*(by or ["sweep"]), "runs", *metrics]
    rows = []
    for record in summary.to_dict("records"):
        cells = [show_value(record[name]) for name in by] or ["all"]
        cells.append(str(record["runs"]))
        for name in metrics:
            value, low, high = (record[column] for column in (name, f"{name}_low", f"{name}_high"))
            if value is None or math.isnan(value):
                cells.append("-")
            elif name.removeprefix("test_") in RATES:
                cells.append(f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
            else:
                cells.append(f"{value:.1f} ({low:.1f} to {high:.1f})")
        rows.append(cells)
    return header, rows


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _sort_key(value: Any) -> tuple[bool, float | str]:
    """Order numbers by size, then words, so that ``full`` is last."""
    word = not isinstance(_plain(value), int | float)
    return word, str(value) if word else value
