"""Figures: evaluation curves with intervals, training loss, token lengths. Each function returns a new figure.

No figure is registered with pyplot, so nothing is shown twice in a notebook and nothing stays in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cs336_sft.errors import DataError

# Okabe and Ito's palette: told apart with any common colour blindness; line style and marker differ as well.
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
    "reference_loss": "loss on the references (nats per token)",
}
_IN_UNITS = ("avg_gen_len", "avg_gen_len_correct", "avg_gen_len_wrong", "entropy", "reference_loss")
DEFAULT_METRICS = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate", "avg_gen_len", "entropy")


class NotebookFigure(Figure):
    """A figure that a notebook can display although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        return buffer.getvalue()


def plot_evaluations(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Iterable[str] = DEFAULT_METRICS, *, title: str = ""
) -> Figure:
    """One panel a metric, one curve a run, over optimizer steps; a band is the 95 % interval.

    The axis of steps is linear up to 1 and logarithmic beyond, so that step 0, the base model, is on it and the early
    steps, where most happens, have room.

    Args:
        runs: label -> evaluations, each with ``step`` and the flat metrics of ``Metrics.as_dict()``.
        metrics: which to draw; one that no run recorded is left out.

    Raises:
        DataError: no run, a run without an evaluation, or none of the metrics is there.

    >>> record = {"step": 0, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    >>> len(plot_evaluations({"base": [record]}, ["accuracy"]).axes)
    1
    """
    _demand(runs, "evaluations")
    present = [name for name in metrics if any(r.get(name) is not None for records in runs.values() for r in records)]
    if not present:
        raise DataError("the runs recorded none of these metrics", f"choose among {', '.join(METRIC_LABELS)}")
    columns = min(len(present), 3)
    rows = -(-len(present) // columns)
    figure = NotebookFigure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    last_step = max(record["step"] for records in runs.values() for record in records)
    for panel, name in zip(panels, present, strict=False):
        for index, (label, records) in enumerate(runs.items()):
            _curve(panel, records, name, label, index)
        bounded = any(f"{name}_low" in record for records in runs.values() for record in records)
        rate = bounded and name not in _IN_UNITS
        if rate:
            panel.set_ylim(-0.02, 1.02)
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylabel(METRIC_LABELS.get(name, name))
        panel.set_xlabel("optimizer step")
        if last_step > 10:
            panel.set_xscale("symlog", base=2 if last_step <= 256 else 4, linthresh=1)  # a tick at each power
            panel.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        panel.set_xlim(left=-0.1)
    for panel in list(figure.axes)[len(present) :]:
        panel.remove()
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    figure.suptitle(title or "Evaluation during training (bands: 95 % intervals)")
    return figure


def plot_training(runs: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str = "", value: str = "loss") -> Figure:
    """A quantity of each optimizer step, by default the loss per target token in nats, one curve a run.

    Raises:
        DataError: no run, or a run that did not record the quantity.

    >>> figure = plot_training({"first": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]})
    >>> figure.axes[0].get_ylabel()
    'loss (nats per target token)'
    """
    _demand(runs, "steps")
    units = {"loss": "loss (nats per target token)", "grad_norm": "gradient norm", "lr": "learning rate"}
    figure = NotebookFigure(figsize=(6.4, 3.8), layout="constrained")
    panel = figure.subplots()
    for index, (label, records) in enumerate(runs.items()):
        points = [(record["step"], record[value]) for record in records if record.get(value) is not None]
        if not points:
            raise DataError(f"the run {label} recorded no {value!r}", f"choose among {', '.join(sorted(records[0]))}")
        panel.plot(*zip(*points, strict=True), label=label, color=_colour(index), linestyle=_STYLES[index % 4], lw=1.2)
    panel.set_xlabel("optimizer step")
    panel.set_ylabel(units.get(value, value))
    panel.set_title(title or "Training")
    panel.legend(frameon=False)
    return figure


def plot_lengths(
    lengths: Mapping[str, Sequence[int]], *, limits: Mapping[str, float] | None = None, title: str = ""
) -> Figure:
    """Distributions of token counts, each normalised to its own number of texts, with limits as vertical lines.

    Args:
        lengths: label -> token counts.
        limits: label -> a limit in tokens.

    Raises:
        DataError: nothing to draw.

    >>> plot_lengths({"answers": [3, 4, 4, 9]}, limits={"limit": 8}).axes[0].get_xlabel()
    'length (tokens)'
    """
    _demand(lengths, "lengths")
    figure = NotebookFigure(figsize=(6.4, 3.8), layout="constrained")
    panel = figure.subplots()
    longest = max(max(values) for values in lengths.values())
    width = max(1, -(-longest // 60))  # whole tokens, about 60 bars
    bins = range(0, longest + width + 1, width)
    for index, (label, values) in enumerate(lengths.items()):
        panel.hist(
            values,
            bins=bins,
            weights=[1 / len(values)] * len(values),
            histtype="step",
            lw=1.6,
            color=_colour(index),
            linestyle=_STYLES[index % 4],
            label=label,
        )
    for index, (label, limit) in enumerate((limits or {}).items()):
        panel.axvline(limit, color="#555555", linestyle=_STYLES[(index + 1) % 4], lw=1.0, label=f"{label}: {limit:g}")
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_xlabel("length (tokens)")
    panel.set_ylabel(f"share of texts per {width} token{'s' if width > 1 else ''}")
    panel.set_title(title or "Token lengths")
    panel.legend(frameon=False)
    return figure


def _curve(panel: Axes, records: Sequence[Mapping[str, Any]], name: str, label: str, index: int) -> None:
    points = [record for record in records if record.get(name) is not None]
    steps = [record["step"] for record in points]
    panel.plot(
        steps,
        [record[name] for record in points],
        label=label,
        color=_colour(index),
        linestyle=_STYLES[index % len(_STYLES)],
        marker=_MARKERS[index % len(_MARKERS)],
        markersize=4,
    )
    if points and all(record.get(f"{name}_low") is not None for record in points):
        lows, highs = ([record[f"{name}_{end}"] for record in points] for end in ("low", "high"))
        panel.fill_between(steps, lows, highs, color=_colour(index), alpha=0.15, linewidth=0)


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _demand(runs: Mapping[str, Sequence[Any]], what: str) -> None:
    empty = [label for label, records in runs.items() if len(records) == 0]
    if not runs or empty:
        raise DataError(f"no {what} to draw{f' for {empty[0]}' if empty else ''}", "give at least one")
