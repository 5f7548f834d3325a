"""The figure of expert iteration: metrics over rounds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from cs336_sft.experiments import plots
from cs336_sft.experiments.summary import over_seeds

Rounds = Sequence[Mapping[str, Any]]

_LABELS = {
    "accuracy": "validation accuracy",
    "accuracy_lenient": "validation accuracy, lenient",
    "rollout_pass_rate": "samples that are correct",
    "rollout_coverage": "questions with a correct sample",
    "rollout_entropy": "entropy of the samples (nats a token)",
    "avg_gen_len": "validation: mean length (tokens)",
}


def plot_rounds(arms: Mapping[str, Sequence[Rounds]]) -> plots.NotebookFigure:
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
    present = plots.recorded_metrics(_LABELS, every, _LABELS)
    figure, axes = plots.panel_grid(len(present))
    for panel, name in zip(axes, present, strict=True):
        rate = any(record.get(f"{name}_low") is not None for record in every)
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
        panel.set_ylabel(_LABELS[name])
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    plots.add_legend(figure)
    return figure
