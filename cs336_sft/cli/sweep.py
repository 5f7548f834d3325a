"""``cs336-sft sweep``: a grid of settings times seeds; each run an ordinary run directory, those done are skipped.

cs336-sft sweep --grid lr=1e-4,3e-4 --grid batch=4,8 --set train_size=64 --seeds 0,1,2 --out runs/lr
cs336-sft sweep recipes/grids/tiny_lr_batch.json --out runs/lr --jobs 8 --record recorded/tiny_lr_batch.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cs336_sft.experiments.grid import Grid
    from cs336_sft.experiments.sweep import RunStatus, SweepResult


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "sweep",
        help="a grid of fine-tuning runs, with a table and figures at the end",
        description="Names of settings are those of `sft`: lr, batch, epochs, max_steps, train_size (a number or "
        "full), eos, subset_seed, order_seed, limit, method (full, lora, qlora), weights (float32, bfloat16), ...; "
        "a name that does not exist is answered with the list of all.",
    )
    parser.add_argument("grid_file", metavar="FILE", nargs="?", help="the grid as JSON; see recipes/grids")
    parser.add_argument("--out", metavar="DIR", required=True, help="the folder of the run directories")
    common.add_profile(parser, model=True)
    common.add_data(parser, "training problems, as in `sft`")
    parser.add_argument(
        "--grid", metavar="NAME=V1,V2", action="append", default=[], help="an axis; several are crossed"
    )
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of all runs")
    parser.add_argument("--seeds", type=seed_list, help="seeds of subset and order, as 0,1,2 (0)")
    parser.add_argument(
        "--test-at-end",
        action="store_true",
        help="measure each run once on the test split, with the weights that were best on validation",
    )
    parser.add_argument("--jobs", type=common.positive_int, default=1, help="runs at the same time (1)")
    parser.add_argument("--threads", type=common.positive_int, help="CPU threads a process; default: cores / jobs")
    parser.add_argument("--time-budget", metavar="SECONDS", type=common.positive_float, help="stop then; with --jobs")
    parser.add_argument("--drop-weights", action="store_true", help="remove models and checkpoints of finished runs")
    parser.add_argument("--record", metavar="FILE", help="write what was measured into one JSON file")
    parser.add_argument(
        "--generations",
        choices=("none", "first-seed", "all"),
        default="none",
        help="whose last evaluation to keep beside the record, compressed",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the runs, and which are done")
    common.add_json(parser)


def seed_list(text: str) -> tuple[int, ...]:
    """An argparse type: seeds, separated by commas.

    >>> seed_list("0,1,2")
    (0, 1, 2)
    """
    seeds = tuple(int(seed) for seed in text.split(","))
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} are not different seeds of at least 0")
    return seeds


def chosen_grid(args: argparse.Namespace) -> Grid:
    """The grid of the file and the command line; what the command line says stands over the file."""
    from cs336_sft.experiments.grid import Grid, parse_axis, parse_setting, read_grid

    settings: dict[str, Any] = {}
    for name in ("profile", "model", "template", "data"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    for name, value in map(parse_setting, args.set):
        settings[name] = value
    if args.test_at_end:
        settings["test"] = "best"
    axes: dict[str, list[Any]] = {}
    for name, values in map(parse_axis, args.grid):
        if name in axes:
            raise ConfigError(f"the axis {name!r} is given twice", "give all its values at once")
        axes[name] = values
    if args.grid_file is None:
        return Grid(settings, axes, args.seeds or (0,))
    if axes or args.seeds:
        raise ConfigError("--grid and --seeds do not go with a grid file", "write them into the file")
    return read_grid(args.grid_file).with_settings(settings)


def run(args: argparse.Namespace) -> int:
    from cs336_sft.experiments.run import is_complete
    from cs336_sft.experiments.sweep import run_sweep

    record = common.output_file(args.record)
    grid, out = chosen_grid(args), Path(args.out)
    if out.is_file():
        raise ConfigError(f"{out} is a file", "give a folder for the runs")
    if args.generations != "none" and record is None:
        raise ConfigError("--generations has no place to go", "give --record too")
    runs = grid.runs()
    if args.dry_run:
        states = ["done" if is_complete(out / run.name, run.settings) else "to do" for run in runs]
        if args.json:
            names = [{"name": run.name, "done": state == "done"} for run, state in zip(runs, states, strict=True)]
            common.print_json({"runs": names})
        else:
            common.print_table(("run", "state"), [(r.name, s) for r, s in zip(runs, states, strict=True)])
            print(f"\n{len(runs)} runs, {states.count('done')} done")
        return 0
    common.quiet_libraries()
    result = run_sweep(
        grid,
        out,
        jobs=args.jobs,
        threads=args.threads,
        time_budget=args.time_budget,
        keep_weights=not args.drop_weights,
        report=say,
    )
    finish(args, grid, result, record)
    if result.with_status("interrupted"):
        return 130
    return 1 if result.with_status("failed") else 0


def say(status: RunStatus, done: int, total: int) -> None:
    """A line for each run that ends."""
    detail = f" after {status.seconds:.0f} s" if status.seconds else ""
    common.note(f"[{done}/{total}] {status.name}: {status.status}{detail}{': ' + status.error if status.error else ''}")


def finish(args: argparse.Namespace, grid: Grid, result: SweepResult, record: Path | None) -> None:
    """Table, figures and record of the runs that are finished."""
    from cs336_sft.experiments.record import sweep_frame, write_record
    from cs336_sft.experiments.summary import (
        SUMMARY_METRICS,
        plot_curves,
        plot_sweep,
        summarise,
        table_rows,
        varied_settings,
    )

    states = {
        state: len(result.with_status(state)) for state in ("finished", "skipped", "failed", "interrupted", "left")
    }
    try:
        frame = sweep_frame(result.folder, grid)
    except DataError:
        common.note("no run is finished")
        if args.json:
            common.print_json({"folder": str(result.folder), "runs": states, "summary": []})
        return
    test = [f"test_{name}" for name in SUMMARY_METRICS[:2] if f"test_{name}" in frame]
    metrics = (*SUMMARY_METRICS, *test)
    summary, varied = summarise(frame, metrics=metrics), varied_settings(frame)
    summary.to_csv(result.folder / "summary.csv", index=False)
    figures = {"curves.png": plot_curves(frame, varied)}
    if varied:
        # The longest axis across, the next as lines; what else varies is in the table.
        axes = sorted(varied, key=lambda name: -frame[name].nunique())
        figures["summary.png"] = plot_sweep(frame, axes[0], hue=axes[1] if len(axes) > 1 else None, metrics=metrics)
    for name, figure in figures.items():
        figure.savefig(result.folder / name, dpi=120, bbox_inches="tight")
    if record is not None:
        write_record(record, grid, result.folder, result=result, jobs=args.jobs, generations=args.generations)
    if args.json:
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        common.print_json({"folder": str(result.folder), "runs": states, "summary": rows})
        return
    common.print_table(*table_rows(summary, metrics))
    print("\n" + ", ".join(f"{number} {state}" for state, number in states.items() if number))
    print(f"means over seeds with 95 % intervals; figures and summary.csv in {result.folder}")
    if record is not None:
        print(f"record: {record}")
    for status in result.with_status("failed"):
        common.note(f"failed: {status.name}: {status.error}")
