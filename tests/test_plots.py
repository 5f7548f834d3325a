"""Figures: what is drawn is what was given, with units, legend and intervals."""

from __future__ import annotations

import pytest

from cs336_sft.errors import DataError
from cs336_sft.experiments.plots import DEFAULT_METRICS, PALETTE, plot_evaluations


def evaluations(offset: float = 0.0, steps=(0, 1, 2, 4, 8, 16)) -> list[dict]:
    records = []
    for step in steps:
        record = {"step": step, "avg_gen_len": 100.0 - step, "entropy": None}
        for name in ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate"):
            record |= {name: 0.5 + offset, f"{name}_low": 0.4 + offset, f"{name}_high": 0.6 + offset}
        records.append(record)
    return records


def test_a_curve_shows_the_numbers_of_the_run() -> None:
    figure = plot_evaluations({"a": evaluations(), "b": evaluations(0.1)}, ["accuracy", "avg_gen_len"])
    accuracy, length = figure.axes
    assert [line.get_label() for line in accuracy.lines] == ["a", "b"]
    assert list(accuracy.lines[1].get_xdata()) == [0, 1, 2, 4, 8, 16]
    assert list(accuracy.lines[1].get_ydata()) == [0.6] * 6
    assert list(length.lines[0].get_ydata()) == [100, 99, 98, 96, 92, 84]


def test_the_band_is_the_interval() -> None:
    (panel,) = plot_evaluations({"a": evaluations()}, ["accuracy"]).axes
    (band,) = panel.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.4, 0.6))
    (panel,) = plot_evaluations({"a": evaluations()}, ["avg_gen_len"]).axes
    assert len(panel.collections) == 0, "no interval was given for lengths"


def test_step_zero_is_on_the_axis() -> None:
    (panel,) = plot_evaluations({"a": evaluations()}, ["accuracy"]).axes
    assert panel.get_xlim()[0] <= 0 and panel.get_xscale() == "symlog"


def test_axes_have_units_and_the_figure_a_legend_and_a_title() -> None:
    figure = plot_evaluations({"a": evaluations(), "b": evaluations()}, title="Two runs")
    assert len(figure.axes) == len(DEFAULT_METRICS) - 1, "entropy was never recorded"
    assert all(panel.get_xlabel() == "optimizer step" and panel.get_ylabel() for panel in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.get_suptitle() == "Two runs"


def test_curves_differ_in_more_than_colour() -> None:
    (panel,) = plot_evaluations({str(i): evaluations() for i in range(4)}, ["accuracy"]).axes
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in panel.lines}
    assert len(looks) == len({line.get_linestyle() for line in panel.lines}) == 4
    assert len(set(PALETTE)) == 7


@pytest.mark.parametrize("call", [lambda: plot_evaluations({}), lambda: plot_evaluations({"a": []})])
def test_nothing_to_draw(call) -> None:
    with pytest.raises(DataError, match="to draw"):
        call()


def test_metrics_that_nobody_recorded() -> None:
    with pytest.raises(DataError, match="none of these metrics"):
        plot_evaluations({"a": evaluations()}, ["entropy", "speed"])


def test_figures_show_in_a_notebook_and_pyplot_does_not_keep_them() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = plot_evaluations({"a": evaluations()})
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before
