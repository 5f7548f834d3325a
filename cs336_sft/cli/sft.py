"""``cs336-sft sft``: supervised fine-tuning, with evaluations before the first step and on a schedule.

cs336-sft sft --train-size 512 --out runs/first
cs336-sft sft --train-size 512 --lora r=8,alpha=16 --lr 1e-3 --out runs/lora
cs336-sft sft --profile smollm2 --train-size 64 --max-steps 8 --out runs/smollm2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common, sampler_options
from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    from cs336_sft.experiments.run import RunData, RunOutcome
    from cs336_sft.experiments.settings import RunSettings


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("sft", help="fine-tune a model on reference answers")
    common.add_profile(parser, model=True)
    parser.add_argument("--out", metavar="DIR", required=True, help="the run directory; one that was cut short goes on")
    common.add_data(parser, "training problems: a JSONL file, or GSM8K as a folder or hub name; default: the profile's")
    parser.add_argument(
        "--eval-data", metavar="PATH", help="evaluation problems, likewise; default: the profile's validation split"
    )
    size = common.positive_int
    parser.add_argument(
        "--train-size", type=size_or_full, help="number of training problems, or full; default: the profile's (512)"
    )
    parser.add_argument("--epochs", type=size, help="passes over them; default: the profile's (3)")
    parser.add_argument("--max-steps", type=size, help="optimizer steps, in place of epochs")
    parser.add_argument(
        "--lr", type=common.positive_float, help="peak learning rate; default: the profile's, for adapters 10 times"
    )
    parser.add_argument("--schedule", choices=("constant", "cosine", "linear"), default="constant")
    parser.add_argument("--warmup", type=int, default=0, help="steps of warm-up (0)")
    parser.add_argument("--batch-size", type=size, help="sequences an optimizer step; default: the profile's (8)")
    parser.add_argument("--micro-batch-size", type=size, help="sequences at once on the device; default: the profile's")
    parser.add_argument("--no-eos", action="store_true", help="leave the end-of-text token out of the targets")
    adapter = parser.add_mutually_exclusive_group()
    adapter.add_argument(
        "--lora", metavar="r=16,alpha=32", nargs="?", const="", help="train a LoRA adapter; also dropout=, targets=a+b"
    )
    adapter.add_argument("--qlora", metavar="r=16,alpha=32", nargs="?", const="", help="the same over 4-bit weights")
    parser.add_argument(
        "--weights", choices=("float32", "bfloat16"), default="float32", help="type of the trained weights (float32)"
    )
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, about a third more time")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile for the layers; pays in long runs on a GPU"
    )
    parser.add_argument(
        "--eval-every", type=cadence, default="log", help="N, steps as 1,8,64, `log` (1, 2, 4, ...) or `ends`"
    )
    parser.add_argument("--eval-size", type=size, help="validation problems; default: the profile's (256)")
    parser.add_argument("--eval-batch-size", type=size, help="answers generated together; default: 32, on a GPU 64")
    parser.add_argument("--limit", type=size, help="generation limit in tokens; default: the profile's")
    parser.add_argument(
        "--test",
        nargs="?",
        const="last",
        choices=("last", "best"),
        help="measure on the test split once, at the end: with the last weights, or those best on validation",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of problems and of their order (0)")
    sampler_options.add_sampler(parser, gpu_memory_utilization=0.3)
    parser.add_argument("--subset-seed", type=int, help="of the choice of problems alone; default: --seed")
    common.add_json(parser)


def size_or_full(text: str) -> int | str:
    """An argparse type: a number of problems, or all of them."""
    return text if text == "full" else common.positive_int(text)


def cadence(text: str) -> int | tuple[int, ...] | str | None:
    """An argparse type: how often to evaluate.

    >>> cadence("20"), cadence("1,8,64"), cadence("log"), cadence("ends")
    (20, (1, 8, 64), 'log', None)
    """
    if text in ("log", "ends"):
        return {"log": "log", "ends": None}[text]
    steps = tuple(common.positive_int(step) for step in text.split(","))
    return steps if len(steps) > 1 else steps[0]


def adapter_settings(text: str) -> dict[str, Any]:
    """Settings of ``--lora`` and ``--qlora``.

    >>> adapter_settings("r=8,alpha=16,targets=q_proj+v_proj")
    {'lora_r': 8, 'lora_alpha': 16.0, 'lora_targets': ('q_proj', 'v_proj')}

    Raises:
        ConfigError: something else than these four, or no number where one has to be.
    """
    kinds = {"r": int, "alpha": float, "dropout": float, "targets": lambda value: tuple(value.split("+"))}
    settings = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        try:
            settings[f"lora_{name}"] = kinds[name](value)
        except (KeyError, ValueError):
            raise ConfigError(
                f"--lora: {part!r}", "write it like r=16,alpha=32,dropout=0.05,targets=q_proj+v_proj"
            ) from None
    return settings


def run_settings(args: argparse.Namespace) -> RunSettings:
    """The settings of the run: the profile's, with what the command line says otherwise."""
    from cs336_sft.experiments.settings import make_settings

    profile = common.chosen_profile(args)
    flat: dict[str, Any] = {
        "profile": profile.name,
        "append_eos": not args.no_eos,
        "schedule": args.schedule,
        "warmup": args.warmup,
        "eval_every": args.eval_every,
        "weights_dtype": args.weights,
        "gradient_checkpointing": args.gradient_checkpointing,
        "compile": args.compile,
        "order_seed": args.seed,
        "subset_seed": args.seed if args.subset_seed is None else args.subset_seed,
    }
    for setting, value in {
        "model": args.model,
        "template": args.template,
        "data": args.data,
        "eval_data": args.eval_data,
        "train_size": args.train_size,
        "epochs": args.epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.lr,
        "batch_size": args.batch_size,
        "eval_size": args.eval_size,
        "eval_batch_size": args.eval_batch_size,
        "limit": args.limit,
        "test": args.test,
        "sampler": args.sampler,
    }.items():
        if value is not None:
            flat[setting] = value
    if args.micro_batch_size is not None:
        flat["micro_batch_size"] = min(args.micro_batch_size, args.batch_size or profile.batch_size)
    for method in ("lora", "qlora"):
        if (text := getattr(args, method)) is not None:
            flat |= {"method": method} | adapter_settings(text)
    return make_settings(flat)


def run(args: argparse.Namespace) -> int:
    from cs336_sft.experiments.run import run_sft
    from cs336_sft.utils.distributed import is_main

    run_dir = Path(args.out)
    if run_dir.is_file():
        raise ConfigError(f"{args.out} is a file", "give a run directory")
    settings = run_settings(args)
    engine = sampler_options.vllm_config(args, settings.limit)
    common.quiet_libraries()
    outcome = run_sft(settings, run_dir, engine=engine, on_data=warn_of_overlap, config_changes={"progress": True})
    if is_main():  # of several processes one speaks
        report(args, settings, run_dir, outcome)
    return 130 if outcome.result.interrupted else 0


def warn_of_overlap(data: RunData) -> None:
    """Say on stderr how many evaluation problems the model is trained on."""
    from cs336_sft.experiments.run import overlap
    from cs336_sft.utils.distributed import is_main

    if not is_main():
        return
    for evaluation in (data.validation, data.test):
        if shared := overlap(data.training, evaluation):
            common.note(
                f"warning: {shared} of the {len(evaluation)} evaluation problems are among the training problems: "
                "what is measured on them says nothing of new ones"
            )


def report(args: argparse.Namespace, settings: RunSettings, run_dir: Path, outcome: RunOutcome) -> None:
    """Print the outcome: the evaluations as a table, or everything as JSON."""
    result, test = outcome.result, outcome.test
    if args.json:
        common.print_json(
            {
                "run": str(run_dir),
                "profile": settings.profile,
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
