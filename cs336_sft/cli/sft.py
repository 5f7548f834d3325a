"""``cs336-sft sft``: supervised fine-tuning, with evaluations before the first step and on a schedule.

cs336-sft sft --train-size 512 --out runs/first
cs336-sft sft --train-size 512 --method lora --lora-r 8 --learning-rate 1e-3 --out runs/lora
cs336-sft sft --profile smollm2 --train-size 64 --max-steps 8 --out runs/smollm2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_sft.cli import common
from cs336_sft.cli.config_options import HELP, add_options, given_fields
from cs336_sft.errors import ConfigError
from cs336_sft.experiments.config import RunConfig, make_config
from cs336_sft.model.loading import quiet_libraries

if TYPE_CHECKING:
    from cs336_sft.experiments.run import RunData, RunOutcome


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("sft", help="fine-tune a model on reference answers")
    parser.add_argument("--out", metavar="DIR", required=True, help="run directory; an interrupted run goes on")
    add_options(parser, RunConfig, HELP)
    common.add_vllm(parser, gpu_memory_utilization=0.3)
    common.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from cs336_sft.experiments.run import run_sft
    from cs336_sft.utils.distributed import is_main

    run_dir = Path(args.out)
    if run_dir.is_file():
        raise ConfigError(f"{args.out} is a file", "give a run directory")
    config = make_config(**{"progress": True} | given_fields(args, RunConfig))
    engine = common.vllm_config(args, config.sampler, config.max_new_tokens)
    quiet_libraries()
    outcome = run_sft(config, run_dir, engine=engine, on_data=warn_of_overlap)
    if is_main():  # only one of several processes prints
        report(args, config, run_dir, outcome)
    return 130 if outcome.result.interrupted else 0


def warn_of_overlap(data: RunData) -> None:
    """Print on stderr how many evaluation problems the model is trained on."""
    from cs336_sft.utils.distributed import is_main

    if not is_main():
        return
    seen = {problem.question for problem in data.training}
    for evaluation in (data.validation, data.test):
        if shared := sum(problem.question in seen for problem in evaluation):
            common.note(
                f"warning: {shared} of the {len(evaluation)} evaluation problems are among the training problems, "
                "so results on them say nothing about new problems"
            )


def report(args: argparse.Namespace, config: RunConfig, run_dir: Path, outcome: RunOutcome) -> None:
    """Print the outcome: the evaluations as a table, or everything as JSON."""
    result, test = outcome.result, outcome.test
    if args.json:
        common.print_json(
            {
                "run": str(run_dir),
                "profile": config.profile,
                "steps": result.steps,
                "interrupted": result.interrupted,
                "first_loss": result.metrics[0]["loss"] if result.metrics else None,
                "last_loss": result.metrics[-1]["loss"] if result.metrics else None,
                "evaluations": list(result.evaluations),
                "test": test,
            }
        )
        return
    if result.metrics:
        print(f"{result.steps} steps, loss {result.metrics[0]['loss']:.3f} -> {result.metrics[-1]['loss']:.3f}")
    names = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")
    rows = [
        (str(r["step"]), *(f"{100 * r[name]:.1f} %" for name in names), f"{r['avg_gen_len']:.1f}")
        for r in result.evaluations
    ]
    common.print_table(("step", *names, "avg_gen_len"), rows)
    if test is not None:
        print(f"\ntest split, weights of step {test['step']}")
        common.print_metrics(test)
    print(f"\nrun directory: {run_dir}" + ("" if result.interrupted else f"; model: {run_dir / 'final'}"))
