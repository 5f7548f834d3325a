"""Figures of expert iteration: arms over rounds, and the seeds of several arms."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from cs336_sft.evaluation.intervals import mean_interval
from cs336_sft.experiments import plots
from cs336_sft.experiments.summary import over_seeds

Rounds = Sequence[Mapping[str, Any]]

DEFAULT_PANELS = (
    *("accuracy", "accuracy_lenient", "rollout_pass_rate", "rollout_coverage"),
    *("rollout_entropy", "avg_gen_len"),
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
_RATES = ("kept_wrong", "kept_flawed", "kept_no_steps")


def plot_rounds(
    arms: Mapping[str, Sequence[Rounds]], panels: Sequence[str] = DEFAULT_PANELS, *, title: str = ""
) -> plots.NotebookFigure:
    """Plot metrics over rounds: one panel per metric, one curve per arm.

    ``arms`` maps a label to its runs, one per seed; a run is the ``rounds`` of an ``ExpertIterationResult``. Panels for
    metrics that no run has are left out. Bands are as in ``over_seeds``. Raises DataError: nothing to draw.

    >>> record = {"round": 0, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    >>> len(plot_rounds({"EI": [[record]]}).axes)
    1
    """
    plots.check_not_empty(arms, "rounds")
    records = {label: list(itertools.chain.from_iterable(runs)) for label, runs in arms.items()}
    every = list(itertools.chain.from_iterable(records.values()))
    present = plots.recorded_metrics(panels, every, _LABELS)
    figure, axes = plots.panel_grid(len(present))
    for panel, name in zip(axes, present, strict=True):
        rate = name in _RATES or any(record.get(f"{name}_low") is not None for record in every)
        for index, (label, own) in enumerate(records.items()):
            rounds = sorted({record["round"] for record in own if record.get(name) is not None})
            at_round = [[record for record in own if record["round"] == number] for number in rounds]
            points = [over_seeds(group, name, rate=rate) for group in at_round]
            plots.draw_curve(panel, rounds, points, label, index)
        if rate:
            low, high = panel.get_ylim()
            panel.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # no ticks at 2.5 %, shown as 2 %
            panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if high - low > 0.05 else 1))
        panel.set_xlabel("round")
        panel.set_ylabel(_LABELS.get(name, name))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    plots.add_legend(figure)
    figure.suptitle(title)
    return figure


def plot_arms(
    values: Mapping[str, Mapping[str, Sequence[float]]], *, xlabel: str = "", title: str = "", end: float = 1.0
) -> plots.NotebookFigure:
    """Plot one row per arm: each seed as a small point, and their mean.

    ``values`` maps an arm to the name of a metric to its value for each seed; all arms have the same metrics. Means
    have 95 % intervals (Student's t). ``end`` below 1 shows small differences between small rates.
    Raises DataError: nothing to draw.

    >>> len(plot_arms({"EI": {"accuracy": [0.7, 0.8]}, "random": {"accuracy": [0.2]}}).axes[0].get_yticks())
    2
    """
    plots.check_not_empty({arm: list(filter(None, metrics.values())) for arm, metrics in values.items()}, "values")
    figure = plots.NotebookFigure(figsize=(8.5, 0.42 * len(values) + 1.4), layout="constrained")
    panel = figure.subplots()
    names = list(next(iter(values.values())))
    for row, metrics in enumerate(values.values()):
        for index, name in enumerate(names):
            seeds = list(metrics.get(name, ()))
            y = row + 0.22 * (index - (len(names) - 1) / 2)
            style = plots.line_style(index) | {"linestyle": ""}
            panel.plot(seeds, [y] * len(seeds), markersize=3.5, alpha=0.45, **style)
            if len(seeds) > 1:
                mean = mean_interval(seeds)
                panel.plot([mean.low, mean.high], [y, y], color=plots.PALETTE[index], lw=1.2)
                panel.plot([mean.value], [y], markersize=7, label=name if row == 0 else None, **style)
            elif row == 0:
                panel.plot([], [], label=name, **style)
    panel.set_yticks(range(len(values)), list(values))
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.set_xlim(-0.02 * end, 1.02 * end)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.grid(axis="x", color="#dddddd", lw=0.6)
    panel.set_xlabel(xlabel)
    plots.add_legend(figure)
    figure.suptitle(title)
    return figure
