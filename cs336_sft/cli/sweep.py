"""``cs336-sft sweep``: a grid of settings times seeds; finished runs are skipped.

cs336-sft sweep --grid learning_rate=1e-4,3e-4 --grid batch_size=4,8 --set train_size=64 --seeds 0,1,2 --out runs/lr
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common
from cs336_sft.cli.config_options import HELP, add_options, given_fields
from cs336_sft.errors import ConfigError
from cs336_sft.experiments.config import RunConfig
from cs336_sft.model.loading import quiet_libraries

if TYPE_CHECKING:
    from cs336_sft.experiments.grid import Grid
    from cs336_sft.experiments.sweep import RunStatus, SweepResult


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    text = "Settings are named as the options of `sft`, with underscores: learning_rate, batch_size, ..."
    brief = "a grid of fine-tuning runs, with a table and figures at the end"
    parser = subparsers.add_parser("sweep", help=brief, description=text)
    option, count = parser.add_argument, common.positive_int
    option("grid_file", metavar="FILE", nargs="?", help="the grid as a JSON file; see recipes/grids")
    option("--out", metavar="DIR", required=True, help="folder of the run directories")
    add_options(parser, RunConfig, {name: HELP[name] for name in ("profile", "model", "template", "data")})
    option("--grid", metavar="NAME=V1,V2", action="append", default=[], help="an axis; several axes are crossed")
    option("--set", metavar="NAME=VALUE", action="append", default=[], help="a setting of all runs")
    option("--seeds", metavar="S1,S2", type=seed_list, help="random seeds of all runs, such as 0,1,2 (default 0)")
    option("--jobs", type=count, default=1, help="runs at the same time (default 1)")
    option("--threads", type=count, help="CPU threads of each process (default: the cores / --jobs)")
    option("--time-budget", metavar="SECONDS", type=common.positive_float, help="time after which the sweep stops")
    option("--drop-weights", action="store_true", help="remove models and checkpoints of finished runs")
    option("--record", metavar="FILE", help="JSON file for everything that was measured")
    kept = "runs whose last generations are kept with the record, compressed (default none)"
    option("--generations", choices=("none", "first-seed"), default="none", help=kept)
    common.add_json(parser)
    parser.set_defaults(run=run)


def seed_list(text: str) -> tuple[int, ...]:
    """Parse seeds, separated by commas, as an argparse type."""
    seeds = tuple(int(seed) for seed in text.split(","))
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} are not different seeds of at least 0")
    return seeds


def chosen_grid(args: argparse.Namespace) -> Grid:
    """Build the grid of the file and the command line, which wins."""
    from cs336_sft.experiments.grid import Grid, parse_axis, parse_setting, read_grid

    settings: dict[str, Any] = given_fields(args, RunConfig) | dict(map(parse_setting, args.set))
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
    from cs336_sft.experiments.sweep import run_sweep

    record = common.output_file(args.record)
    grid, out = chosen_grid(args), common.output_folder(args.out)
    if args.generations != "none" and record is None:
        raise ConfigError("--generations has no place to go", "give --record too")
    quiet_libraries()
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
    detail = f" after {status.seconds:.0f} s" if status.seconds else ""
    common.note(f"[{done}/{total}] {status.name}: {status.status}{detail}{': ' + status.error if status.error else ''}")


def finish(args: argparse.Namespace, grid: Grid, result: SweepResult, record: Path | None) -> None:
    """Write table, figures and record of the runs that are finished."""
    from cs336_sft.experiments import summary as tables
    from cs336_sft.experiments.record import sweep_frame, write_record

    states = {name: len(result.with_status(name)) for name in ("finished", "skipped", "failed", "interrupted", "left")}
    if not result.with_status("finished", "skipped"):
        common.note("no run is finished")
        if args.json:
            common.print_json({"folder": str(result.folder), "runs": states, "summary": []})
        return
    frame = sweep_frame(result.folder, grid)
    test = [f"test_{name}" for name in common.RATES[:2] if f"test_{name}" in frame]
    metrics = (*tables.SUMMARY_METRICS, *test)
    summary, varied = tables.summarise(frame, metrics=metrics), tables.varied_settings(frame)
    summary.to_csv(result.folder / "summary.csv", index=False)
    common.save_picture(tables.plot_curves(frame, varied), result.folder / "curves.png")
    if varied:
        # The longest axis across, the next as lines; what else varies is in the table.
        x, *rest = sorted(varied, key=lambda name: -frame[name].nunique())
        figure = tables.plot_sweep(frame, x, hue=rest[0] if rest else None, metrics=metrics)
        common.save_picture(figure, result.folder / "summary.png")
    if record is not None:
        generations = args.generations == "first-seed"
        write_record(record, grid, result.folder, result=result, jobs=args.jobs, generations=generations)
    if args.json:
        rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
        common.print_json({"folder": str(result.folder), "runs": states, "summary": rows})
        return
    common.print_table(*tables.table_rows(summary, metrics))
    print("\n" + ", ".join(f"{number} {state}" for state, number in states.items() if number))
    print(f"means over seeds with 95 % intervals; figures and summary.csv in {result.folder}")
    if record is not None:
        print(f"record: {record}")
    for status in result.with_status("failed"):
        common.note(f"failed: {status.name}: {status.error}")
