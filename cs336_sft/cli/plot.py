"""`cs336-sft plot`: evaluation curves of one or more runs, with their 95 % intervals.

cs336-sft plot runs/eos runs/no-eos --out curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError

FORMATS = (".png", ".svg", ".pdf")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("plot", help="draw the evaluation curves of runs")
    parser.add_argument("run_dirs", metavar="RUN", nargs="+", help="a run directory, as `cs336-sft sft --out` makes it")
    parser.add_argument("--out", metavar="FILE", required=True, help="file of the picture (.png, .svg or .pdf)")
    parser.add_argument("--title", default="", help="heading of the picture")


def run(args: argparse.Namespace) -> None:
    from cs336_sft.experiments.plots import plot_evaluations

    out = common.output_file(args.out)
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"{out} is not a picture's name", f"end it in {', '.join(FORMATS)}")
    curves = {label: read_evaluations(Path(folder)) for label, folder in labels(args.run_dirs).items()}
    figure = plot_evaluations(curves, title=args.title)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150, bbox_inches="tight")
    print(out)


def labels(folders: list[str]) -> dict[str, str]:
    """Label each run directory by its last part, or by its path where those are equal."""
    names = [Path(folder).absolute().name for folder in folders]
    return dict(zip(names if len(set(names)) == len(names) else folders, folders, strict=True))


def read_evaluations(folder: Path) -> list[dict]:
    """Read the evaluations of a run, of which there must be one."""
    from cs336_sft.training.result import load_result

    remedy = "give a directory that `cs336-sft sft --out` made"
    if not folder.is_dir():
        raise ConfigError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}", remedy)
    records = load_result(folder).evaluations
    if not records:
        raise ConfigError(f"{folder} has no evaluations (evaluations.jsonl)", f"{remedy}, not the model's folder in it")
    return list(records)
