"""Figures of expert iteration: arms over rounds, and arms side by side, with seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cs336_sft.errors import DataError
from cs336_sft.evaluation.intervals import mean_interval
from cs336_sft.experiments.plots import PALETTE, NotebookFigure

Rounds = Sequence[Mapping[str, Any]]

DEFAULT_PANELS = (
    "accuracy",
    "accuracy_lenient",
    "rollout_pass_rate",
    "rollout_coverage",
    "rollout_entropy",
    "avg_gen_len",
)
_LABELS = {
    "accuracy": "validation accuracy",
    "accuracy_lenient": "validation accuracy, lenient",
    "format_accuracy": "validation: in the format",
    "trunc_rate": "validation: stopped by the limit",
    "avg_gen_len": "validation: mean length (tokens)",
    "rollout_pass_rate": "samples that are correct",
    "rollout_coverage": "questions with a correct sample",
    "rollout_entropy": "entropy of the samples (nats a token)",
    "rollout_distinct_correct": "different correct samples a question",
    "rollout_length": "length of the samples (tokens)",
    "kept_n": "samples trained on",
    "rollout_distinct": "different samples a question",
    "kept_wrong": "trained on: wrong",
    "kept_flawed": "trained on: right answer, wrong step",
    "kept_no_steps": "trained on: no calculation",
}
_SHARES = ("kept_wrong", "kept_flawed", "kept_no_steps")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_rounds(
    arms: Mapping[str, Sequence[Rounds]], panels: Sequence[str] = DEFAULT_PANELS, *, title: str = ""
) -> NotebookFigure:
    """One panel a metric, one curve an arm, over rounds.

    The band is a 95 % interval: with several seeds that of their mean (Student's t); with one seed that of the
    measurement, where the record has it (``accuracy_low``, ``accuracy_high``). Of a rate it stays within 0..1.

    Args:
        arms: label -> the runs of that arm, one a seed; a run is the ``rounds`` of an ``ExpertIterationResult``.
        panels: which metrics; one that no run has is left out.

    Raises:
        DataError: nothing to draw.

    >>> record = {"round": 0, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    >>> len(plot_rounds({"EI": [[record]]}).axes)
    1
    """
    if not arms or not all(arms.values()):
        raise DataError("no rounds to draw", "give at least one run for each arm")
    every = [record for runs in arms.values() for rounds in runs for record in rounds]
    present = [name for name in panels if any(record.get(name) is not None for record in every)]
    if not present:
        raise DataError("the runs recorded none of these metrics", f"choose among {', '.join(_LABELS)}")
    columns = min(3, len(present))
    rows = -(-len(present) // columns)
    figure = NotebookFigure(figsize=(4.2 * columns, 3.2 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel, name in zip(axes, present, strict=False):
        rate = name in _SHARES or any(record.get(f"{name}_low") is not None for record in every)
        for index, (label, runs) in enumerate(arms.items()):
            _curve(panel, runs, name, label, index, rate=rate)
        if rate:
            low, high = panel.get_ylim()
            panel.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # no ticks at 2.5 %, shown as 2 %
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.05 else 1))
        panel.set_xlabel("round")
        panel.set_ylabel(_LABELS.get(name, name))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in axes[len(present) :]:
        panel.remove()
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 4), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def plot_arms(
    values: Mapping[str, Mapping[str, Sequence[float]]], *, xlabel: str = "", title: str = "", end: float = 1.0
) -> NotebookFigure:
    """One row an arm: the mean over seeds with its 95 % interval (Student's t), and each seed as a small point.

    Args:
        values: arm -> name of a metric -> its value for each seed; all arms have the same metrics.
        xlabel: what the values are.
        title: of the figure.
        end: where the axis ends; lower than 1 shows small differences between small rates.

    Raises:
        DataError: nothing to draw.

    >>> len(plot_arms({"EI": {"accuracy": [0.7, 0.8]}, "random": {"accuracy": [0.2]}}).axes[0].get_yticks())
    2
    """
    if not values or not all(any(metrics.values()) for metrics in values.values()):
        raise DataError("no values to draw", "give at least one for each arm")
    figure = NotebookFigure(figsize=(8.5, 0.42 * len(values) + 1.4), layout="constrained")
    panel = figure.subplots()
    names = list(next(iter(values.values())))
    for row, metrics in enumerate(values.values()):
        for index, name in enumerate(names):
            seeds = list(metrics.get(name, ()))
            if not seeds:
                continue
            y = row + 0.22 * (index - (len(names) - 1) / 2)
            style = {"color": PALETTE[index], "marker": _MARKERS[index]}
            panel.plot(seeds, [y] * len(seeds), linestyle="", markersize=3.5, alpha=0.45, **style)
            if len(seeds) > 1:
                mean = mean_interval(seeds)
                panel.plot([mean.low, mean.high], [y, y], color=PALETTE[index], lw=1.2)
                panel.plot([mean.value], [y], markersize=7, label=name if row == 0 else None, linestyle="", **style)
            elif row == 0:
                panel.plot([], [], linestyle="", label=name, **style)
    panel.set_yticks(range(len(values)), list(values))
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.set_xlim(-0.02 * end, 1.02 * end)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.grid(axis="x", color="#dddddd", lw=0.6)
    panel.set_xlabel(xlabel)
    figure.legend(loc="outside lower center", ncols=len(names), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def _curve(panel: Axes, runs: Sequence[Rounds], name: str, label: str, index: int, *, rate: bool) -> None:
    by_round: dict[int, list[Mapping[str, Any]]] = {}
    for rounds in runs:
        for record in rounds:
            if record.get(name) is not None:
                by_round.setdefault(record["round"], []).append(record)
    x = sorted(by_round)
    y, low, high = [], [], []
    for number in x:
        values = [record[name] for record in by_round[number]]
        y.append(sum(values) / len(values))
        if len(values) > 1:
            interval = mean_interval(values)
            low, high = [*low, interval.low], [*high, interval.high]
        else:
            record = by_round[number][0]
            low, high = [*low, record.get(f"{name}_low", values[0])], [*high, record.get(f"{name}_high", values[0])]
    style = {"color": PALETTE[index % len(PALETTE)], "linestyle": _STYLES[index % 4]}
    panel.plot(x, y, label=label, marker=_MARKERS[index % len(_MARKERS)], markersize=4, **style)
    if rate:
        low, high = [max(0.0, value) for value in low], [min(1.0, value) for value in high]
    if low != high:
        panel.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
