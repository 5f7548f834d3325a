"""Curves with the seeds' scatter: the evaluations of several runs that differ in their seed alone, made into one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import DataError
from cs336_sft.intervals import mean_interval, wilson_interval

if TYPE_CHECKING:
    import pandas

Records = list[dict[str, Any]]
_RATES = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")


def curves_over_seeds(
    frame: pandas.DataFrame,
    by: str | Sequence[str],
    metrics: Iterable[str] = (*_RATES, "validation_loss", "avg_gen_len"),
    *,
    label: Callable[[Any], str] = str,
) -> dict[str, Records]:
    """One curve for each value of ``by``: means over the runs, with intervals, as ``plots.plot_evaluations`` takes them.

    With several runs the interval is that of their mean (Student's t): it says what another seed would do. A single run
    has no scatter; the interval of a rate is then Wilson's, and says what other problems would do.

    Args:
        frame: one row an evaluation, with ``run``, ``step``, ``n_problems`` and the metrics (``read_recorded``,
            ``sweep_frame``).
        by: the column, or columns, that tell the curves apart; all other differences are taken for seeds.
        label: makes a curve's name of its value (a tuple for several columns).

    Returns:
        label -> records with ``step``, ``seeds`` (how many runs have that step), each metric, ``…_low`` and ``…_high``.
        Only steps that every run of a curve has.

    Raises:
        DataError: a column is missing, or a curve has no common step.
    """
    columns = [by] if isinstance(by, str) else list(by)
    missing = [name for name in (*columns, "run", "step") if name not in frame]
    if missing:
        raise DataError(f"no column {missing[0]!r}", f"choose among {', '.join(map(str, frame.columns))}")
    curves = {}
    for value, group in frame.groupby(columns[0] if isinstance(by, str) else columns, sort=True):
        name = label(value)
        runs = group["run"].nunique()
        records = []
        for step, rows in group.groupby("step"):
            if rows["run"].nunique() == runs:
                records.append({"step": int(step), "seeds": runs, **_summary(rows, metrics)})
        if not records:
            raise DataError(f"the runs of {name} have no step in common", "evaluate them at the same steps")
        curves[name] = records
    return curves


def last_over_seeds(frame: pandas.DataFrame, by: str | Sequence[str], metric: str) -> dict[Hashable, list[float]]:
    """The metric at each run's last step, grouped: value of ``by`` -> one number a run, in order of the runs' names."""
    last = frame.loc[frame.groupby("run")["step"].idxmax()].sort_values("run")
    key = by if isinstance(by, str) else list(by)
    return {value: [float(number) for number in group[metric]] for value, group in last.groupby(key, sort=True)}


def _summary(rows: pandas.DataFrame, metrics: Iterable[str]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for metric in metrics:
        if metric not in rows or rows[metric].isna().any():
            continue
        values = [float(value) for value in rows[metric]]
        mean = sum(values) / len(values)
        summary[metric] = mean
        if len(values) > 1:
            interval = mean_interval(values)
        elif metric in _RATES:
            n = int(rows["n_problems"].iloc[0])
            interval = wilson_interval(mean * n, n)
        else:
            continue
        # A rate's t interval may leave 0..1, where there is nothing.
        clip = (lambda x: min(1.0, max(0.0, x))) if metric in _RATES else (lambda x: x)
        summary |= {f"{metric}_low": clip(interval.low), f"{metric}_high": clip(interval.high)}
    return summary
