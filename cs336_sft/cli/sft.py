"""``cs336-sft sft``, ``merge`` and ``plot``: fine-tuning runs, their adapters merged, their evaluation curves drawn.

cs336-sft sft --train-size 512 --method lora --lora-r 8 --learning-rate 1e-3 --out runs/lora
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common
from cs336_sft.cli.config_options import HELP, add_run_options, given_fields
from cs336_sft.errors import ConfigError
from cs336_sft.experiments.config import RunConfig, make_config
from cs336_sft.model.loading import quiet_libraries

if TYPE_CHECKING:
    from cs336_sft.experiments.run import RunData


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    add_run_options(subparsers.add_parser("sft", help="fine-tune a model on reference answers"), RunConfig, HELP, run)

    parser = subparsers.add_parser("merge", help="add a LoRA or QLoRA adapter to its model's weights")
    parser.add_argument("adapter", metavar="DIR", help="final folder of a run with an adapter")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the merged model, new or empty")
    parser.set_defaults(run=merge)

    parser = subparsers.add_parser("plot", help="draw the evaluation curves of runs")
    parser.add_argument("run_dirs", metavar="RUN", nargs="+", help="a run directory, as `cs336-sft sft --out` makes it")
    parser.add_argument("--out", metavar="FILE", required=True, help="file of the picture (.png, .svg or .pdf)")
    parser.set_defaults(run=plot)


def run(args: argparse.Namespace) -> int:
    from cs336_sft.experiments.run import run_sft

    run_dir = common.output_folder(args.out)
    config = make_config(**{"progress": True} | given_fields(args, RunConfig))
    engine = common.vllm_config(args, config.sampler, config.max_new_tokens)
    quiet_libraries()
    outcome = run_sft(config, run_dir, engine=engine, on_data=warn_of_overlap)
    result = outcome.result
    first, last = (result.metrics[at]["loss"] if result.metrics else None for at in (0, -1))
    facts = {"profile": config.profile, "steps": result.steps, "first_loss": first, "last_loss": last}
    facts |= {"evaluations": list(result.evaluations), "test": outcome.test}
    if result.metrics and not args.json and common.is_main():
        print(f"{result.steps} steps, loss {first:.3f} -> {last:.3f}")
    cells = "{step} {accuracy:.1%} {accuracy_lenient:.1%} {format_accuracy:.1%} {trunc_rate:.1%} {avg_gen_len:.1f}"
    header = ",".join(("step", *common.RATES, "avg_gen_len"))
    return common.finish_run(args, result, facts, header, cells, result.evaluations)


def warn_of_overlap(data: RunData) -> None:
    """Print on stderr how many evaluation problems the model is trained on."""
    seen = {problem.question for problem in data.training}
    for evaluation in (data.validation, data.test):
        if shared := sum(problem.question in seen for problem in evaluation):
            common.note(
                f"warning: {shared} of the {len(evaluation)} evaluation problems are among the training problems, "
                "so results on them say nothing about new problems"
            )


def merge(args: argparse.Namespace) -> None:
    from cs336_sft.model.lora import merge_adapter

    quiet_libraries()
    print(merge_adapter(args.adapter, args.out))


def plot(args: argparse.Namespace) -> None:
    from cs336_sft.experiments.plots import plot_evaluations

    out = common.picture_file(args.out)
    curves = {label: read_evaluations(Path(folder)) for label, folder in labels(args.run_dirs).items()}
    common.save_picture(plot_evaluations(curves), out)
    print(out)


def labels(folders: list[str]) -> dict[str, str]:
    """Label each run directory by its last part, or by its path where those are equal."""
    names = [Path(folder).absolute().name for folder in folders]
    return dict(zip(names if len(set(names)) == len(names) else folders, folders, strict=True))


def read_evaluations(folder: Path) -> Sequence[dict[str, Any]]:
    """Read the evaluations of a run, of which there must be one."""
    from cs336_sft.training.result import load_result

    remedy = "give a directory that `cs336-sft sft --out` made"
    if not folder.is_dir():
        raise ConfigError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}", remedy)
    records = load_result(folder).evaluations
    if not records:
        raise ConfigError(f"{folder} has no evaluations (evaluations.jsonl)", f"{remedy}, not the model's folder in it")
    return records
