"""What a sweep came to: means over seeds with intervals, as a table and as two figures.

    summary = summarise(read_recorded("recorded/lr/tiny.json"))          # one row a combination of settings
    plot_sweep(frame, "learning_rate", hue="batch_size")                 # last evaluation over a setting
    plot_curves(frame, "learning_rate")                                  # over the steps

An interval over seeds is Student's, with ``seeds - 1`` degrees of freedom: it says how far the mean over seeds is
known on these evaluation problems, which are the same for all runs. One seed has the interval of its evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import Interval, mean_interval
from cs336_sft.experiments.plots import METRIC_LABELS, PALETTE, NotebookFigure, plot_evaluations
from cs336_sft.experiments.settings import setting_names, short_number

if TYPE_CHECKING:
    import pandas

SUMMARY_METRICS = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate", "avg_gen_len")
RATES = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")
_SEEDS = ("subset_seed", "order_seed", "seed")
_MARKERS, _STYLES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", "-.", ":")


def varied_settings(frame: pandas.DataFrame) -> list[str]:
    """The settings, seeds left out, that are not the same in all runs of a table.

    >>> import pandas
    >>> varied_settings(pandas.DataFrame({"learning_rate": [1e-4, 3e-4], "limit": [160, 160], "order_seed": [0, 1]}))
    ['learning_rate']
    """
    names = [name for name in setting_names() if name in frame.columns and name not in _SEEDS]
    # A run without an adapter has no rank; that alone does not make the rank an axis.
    return [name for name in names if frame[name].nunique(dropna=name.startswith("lora_")) > 1]


def seed_interval(values: Sequence[float], *, low: float = -math.inf, high: float = math.inf) -> Interval:
    """``mean_interval``, cut to where the quantity can be; of one value an interval without width.

    >>> print(seed_interval([0.99, 1.0, 0.98], high=1.0))
    0.990 [0.965, 1.000]
    """
    if len(values) < 2:
        return Interval(values[0], values[0], values[0])
    interval = mean_interval(values)
    return Interval(interval.value, max(low, interval.low), min(high, interval.high))


def summarise(
    frame: pandas.DataFrame, by: Iterable[str] | None = None, metrics: Sequence[str] = SUMMARY_METRICS
) -> pandas.DataFrame:
    """Mean over seeds of the metrics at each run's last evaluation, with ``_low`` and ``_high`` (95 %).

    Args:
        frame: from ``read_recorded`` or ``sweep_frame``; rows of other evaluations than the last are left out unless
            it holds only one ``step`` a run.
        by: the settings of which each combination makes a row; default: those that vary.
        metrics: columns to average.

    Raises:
        DataError: no row, or a metric that is not there.
    """
    import pandas

    if "last" in frame:
        frame = frame[frame["last"]]
    if not len(frame):
        raise DataError("the table has no row", "give the evaluations of at least one run")
    missing = [name for name in metrics if name not in frame]
    if missing:
        raise DataError(f"the table has no column {missing[0]!r}", f"choose from {', '.join(map(str, frame.columns))}")
    by = list(varied_settings(frame) if by is None else by)
    groups = frame.groupby(by, dropna=False, sort=True) if by else [((), frame)]
    rows = []
    for key, group in groups:
        row: dict[str, Any] = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        row["runs"] = len(group)
        for name in metrics:
            row |= _interval_columns(group, name)
        rows.append(row)
    return pandas.DataFrame(rows)


def _interval_columns(group: pandas.DataFrame, name: str) -> dict[str, float | None]:
    values = [float(value) for value in group[name].dropna()]
    if not values:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    if len(values) == 1 and f"{name}_low" in group:
        only = group.dropna(subset=[name]).iloc[0]
        return {column: float(only[column]) for column in (name, f"{name}_low", f"{name}_high")}
    rate = name.removeprefix("test_") in RATES
    interval = seed_interval(values, low=0.0 if rate else -math.inf, high=1.0 if rate else math.inf)
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def plot_sweep(
    frame: pandas.DataFrame,
    x: str,
    *,
    hue: str | None = None,
    metrics: Sequence[str] = SUMMARY_METRICS,
    title: str = "",
) -> Figure:
    """The metrics at the last evaluation over one setting, a line for each value of another; bars are intervals.

    Settings that are neither ``x`` nor ``hue`` are averaged over with the seeds: filter the table first where they
    vary.

    Raises:
        DataError: see ``summarise``.
    """
    summary = summarise(frame, [name for name in (x, hue) if name], metrics)
    values = sorted(summary[x].unique(), key=_sort_key)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in map(_plain, values))
    logarithmic = numeric and min(values) > 0 and max(values) >= 4 * min(values)
    place = {value: value if numeric else index for index, value in enumerate(values)}
    lines = sorted(summary[hue].unique(), key=_sort_key) if hue else [None]
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    figure = NotebookFigure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, name in zip(panels, metrics, strict=False):
        for index, line in enumerate(lines):
            part = summary if hue is None else summary[summary[hue] == line]
            part = part.assign(place=[place[value] for value in part[x]]).sort_values("place").dropna(subset=[name])
            spread = [part[name] - part[f"{name}_low"], part[f"{name}_high"] - part[name]]
            panel.errorbar(
                part["place"],
                part[name],
                yerr=[side.clip(lower=0) for side in spread],
                label="all" if hue is None else f"{hue.replace('_', ' ')} {show_value(line)}",
                color=PALETTE[index % len(PALETTE)],
                marker=_MARKERS[index % len(_MARKERS)],
                linestyle=_STYLES[index % len(_STYLES)],
                markersize=5,
                capsize=3,
                lw=1.3,
            )
        if name.removeprefix("test_") in RATES:
            panel.set_ylim(-0.02, 1.02)
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylabel(METRIC_LABELS.get(name, name.replace("_", " ")))
        panel.set_xlabel(x.replace("_", " "))
        if logarithmic:
            panel.set_xscale("log")
        panel.set_xticks([place[value] for value in values], [show_value(value) for value in values])
        panel.minorticks_off()
    for panel in panels[len(metrics) :]:
        panel.remove()
    if hue:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    figure.suptitle(title or "Last evaluation, mean over seeds (bars: 95 % intervals)")
    return figure


def mean_curves(
    frame: pandas.DataFrame, by: str | Sequence[str], metrics: Sequence[str] = SUMMARY_METRICS
) -> dict[str, list[dict[str, Any]]]:
    """Label -> one record a step with the means over seeds and their intervals: what ``plot_evaluations`` draws."""
    by = [by] if isinstance(by, str) else list(by)
    curves: dict[str, list[dict[str, Any]]] = {}
    for key, group in frame.groupby(by, dropna=False, sort=True) if by else [((), frame)]:
        keys = key if isinstance(key, tuple) else (key,)
        named = [f"{name.replace('_', ' ')} {show_value(value)}" for name, value in zip(by, keys, strict=True)]
        curves[", ".join(named) or "all runs"] = [
            {"step": int(step)} | {k: v for name in metrics for k, v in _interval_columns(part, name).items()}
            for step, part in group.groupby("step")
        ]
    return curves


def plot_curves(
    frame: pandas.DataFrame,
    by: str | Sequence[str],
    *,
    metrics: Sequence[str] = SUMMARY_METRICS,
    title: str = "",
) -> Figure:
    """The metrics over the steps, a curve for each combination of ``by``, mean over seeds; bands are intervals.

    Raises:
        DataError: nothing to draw.
    """
    return plot_evaluations(
        mean_curves(frame, by, metrics), metrics, title=title or "Mean over seeds (bands: 95 % intervals)"
    )


def show_value(value: Any) -> str:
    """A setting's value as figures and tables show it.

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
    """Header and rows of ``summarise``'s table, ready to be printed."""
    by = [name for name in summary.columns if name in setting_names()]
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


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then words, so that ``full`` comes after every number of examples."""
    value = _plain(value)
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, str(value))
