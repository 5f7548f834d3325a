"""Figures: evaluation curves with intervals, and token lengths. Each function returns a new figure.

No figure is registered with pyplot, so nothing is shown twice in a notebook and nothing stays in memory.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import Interval

# Okabe and Ito's palette: distinct with any common colour blindness. Line style and marker differ as well.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

METRIC_LABELS = {
    "accuracy": "accuracy (format demanded)",
    "accuracy_lenient": "accuracy, read leniently",
    "format_accuracy": "in the format",
    "trunc_rate": "stopped by the limit",
    "avg_gen_len": "mean length (tokens)",
    "avg_gen_len_correct": "mean length of right answers (tokens)",
    "avg_gen_len_wrong": "mean length of wrong answers (tokens)",
    "entropy": "mean entropy (nats)",
    "validation_loss": "validation loss (nats per token)",
}
RATES = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")
DEFAULT_METRICS = (*RATES, "avg_gen_len", "entropy")


class NotebookFigure(Figure):
    """A figure that a notebook can display although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        return buffer.getvalue()


def line_style(index: int) -> dict[str, str]:
    """Return the colour, line style and marker of one of several curves."""
    kinds = {"color": PALETTE, "linestyle": _STYLES, "marker": _MARKERS}
    return {name: values[index % len(values)] for name, values in kinds.items()}


def panel_grid(count: int) -> tuple[NotebookFigure, list[Axes]]:
    """Make a figure of ``count`` panels, at most three in a row."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = NotebookFigure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def metric_panels(names: Sequence[str], x_label: str) -> tuple[NotebookFigure, list[Axes]]:
    """Make a figure with a labelled panel for each metric."""
    figure, panels = panel_grid(len(names))
    for panel, name in zip(panels, names, strict=True):
        if name.removeprefix("test_") in RATES:
            panel.set_ylim(-0.02, 1.02)
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylabel(METRIC_LABELS.get(name, name.replace("_", " ")))
        panel.set_xlabel(x_label)
    return figure, panels


def draw_curve(panel: Axes, x: Sequence[float], points: Sequence[Interval], label: str, index: int) -> None:
    """Draw values over ``x``, and their intervals as a band if they have a width."""
    style = line_style(index)
    lows, highs = [point.low for point in points], [point.high for point in points]
    panel.plot(x, [point.value for point in points], label=label, markersize=4, **style)
    if lows != highs:
        panel.fill_between(x, lows, highs, color=style["color"], alpha=0.15, linewidth=0)


def recorded_interval(record: Mapping[str, Any], name: str) -> Interval:
    """Return a metric with its recorded interval, or without width."""
    value = record[name]
    ends = (record.get(f"{name}_low"), record.get(f"{name}_high"))
    return Interval(value, *(value if end is None else end for end in ends))


def add_legend(figure: Figure) -> None:
    """Put the legend of the first panel below all panels."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)


def plot_evaluations(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Iterable[str] = DEFAULT_METRICS, *, title: str = ""
) -> Figure:
    """Plot metrics over optimizer steps, a curve for each run, with 95 % bands.

    ``runs`` maps labels to evaluations, each with ``step`` and the flat metrics of ``Metrics.as_dict()``. A metric that
    no run recorded is left out. The axis of steps is linear up to 1 and logarithmic above.
    Raises DataError: no run, a run without an evaluation, or none of the metrics is there.
    """
    check_not_empty(runs, "evaluations")
    present = recorded_metrics(metrics, itertools.chain.from_iterable(runs.values()), METRIC_LABELS)
    figure, panels = metric_panels(present, "optimizer step")
    last_step = max(record["step"] for records in runs.values() for record in records)
    for panel, name in zip(panels, present, strict=True):
        for index, (label, records) in enumerate(runs.items()):
            points = [record for record in records if record.get(name) is not None]
            intervals = [recorded_interval(record, name) for record in points]
            draw_curve(panel, [record["step"] for record in points], intervals, label, index)
        if last_step > 10:
            panel.set_xscale("symlog", base=2 if last_step <= 256 else 4, linthresh=1)  # a tick at each power
            panel.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        panel.set_xlim(left=-0.1)
    add_legend(figure)
    figure.suptitle(title or "Evaluation during training (bands: 95 % intervals)")
    return figure


def check_not_empty(runs: Mapping[str, Sequence[Any]], what: str) -> None:
    empty = [label for label, records in runs.items() if len(records) == 0]
    if not runs or empty:
        raise DataError(f"no {what} to draw{f' for {empty[0]}' if empty else ''}", "give at least one")


def recorded_metrics(names: Iterable[str], records: Iterable[Mapping[str, Any]], known: Iterable[str]) -> list[str]:
    """Choose the metrics that a record has, or raise DataError if there are none."""
    there = {name for record in records for name, value in record.items() if value is not None}
    present = [name for name in names if name in there]
    if not present:
        raise DataError("the runs recorded none of these metrics", f"choose among {', '.join(known)}")
    return present
