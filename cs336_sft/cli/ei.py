"""``cs336-sft ei``: expert iteration, or one of its controls, from a base model or after a little fine-tuning.

cs336-sft ei --sft-size 128 --temperature 0.3 --out runs/ei --plot ei.png
cs336-sft ei --sft-size 128 --temperature 0.3 --out runs/random --control random --like runs/ei/ei
cs336-sft ei --judge lenient --add-format --out runs/from-base
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common, sampler_options
from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    from cs336_sft.experiments.profiles import Profile
    from cs336_sft.expert_iteration.config import ExpertIterationConfig
    from cs336_sft.expert_iteration.result import ExpertIterationResult

CONTROLS = ("random", "finished", "human", "one-per-question")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("ei", help="expert iteration: train on the model's own correct answers, in rounds")
    size, share = common.positive_int, common.positive_float
    common.add_profile(parser, model=True)
    parser.add_argument("--out", metavar="DIR", required=True, help="the run directory; one that was cut short goes on")
    common.add_data(parser, "training problems: a JSONL file, or GSM8K as a folder or hub name; default: the profile's")
    parser.add_argument("--eval-data", metavar="PATH", help="validation problems, likewise")
    start = parser.add_argument_group("start")
    start.add_argument(
        "--sft-size", type=size, metavar="N", help="first fine-tune on N reference answers, none of them in the pool"
    )
    start.add_argument("--sft-epochs", type=size, default=3, help="passes over them (3)")
    start.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="leave the first N training problems out: --model has seen them",
    )
    rollouts = parser.add_argument_group("rollouts")
    rollouts.add_argument("--rounds", type=size, default=3, help="(3)")
    rollouts.add_argument("--questions", type=size, default=128, metavar="D_b", help="questions a round (128)")
    rollouts.add_argument("--pool", type=size, help="questions to draw from; default: as many as a round has")
    rollouts.add_argument("--rollouts", type=size, default=4, metavar="G", help="samples a question (4)")
    rollouts.add_argument("--temperature", type=float, default=0.7, help="(0.7)")
    rollouts.add_argument("--top-p", type=share, default=1.0, help="(1.0)")
    rollouts.add_argument("--min-tokens", type=int, default=4, help="end-of-text is forbidden before so many (4)")
    rollouts.add_argument("--limit", type=size, help="generation limit in tokens; default: the profile's")
    rollouts.add_argument("--generation-batch", type=size, help="sequences that the hf sampler generates at once")
    rollouts.add_argument("--cache", metavar="DIR", help="of rollouts; arms that share it share their first round")
    selection = parser.add_argument_group("selection and controls")
    selection.add_argument("--judge", choices=("strict", "lenient"), default="strict", help="what is correct (strict)")
    selection.add_argument("--add-format", action="store_true", help="add the `#### N` line (with --judge lenient)")
    selection.add_argument("--cap", type=size, help="samples kept of one question, at most")
    selection.add_argument("--keep-duplicates", action="store_true", help="keep equal samples of a question")
    selection.add_argument("--truncated", choices=("drop", "trim"), default="drop", help="samples cut off by the limit")
    selection.add_argument("--no-eos", action="store_true", help="do not end kept samples with end-of-text")
    selection.add_argument("--control", choices=CONTROLS, help="train on something else, for comparison")
    selection.add_argument("--grader-error", type=float, default=0.0, metavar="P", help="verdicts turned around (0)")
    selection.add_argument(
        "--like", metavar="DIR", help="take the number of samples, and so of steps, of each round from this run"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=size, default=1, help="passes over a round's samples (1)")
    training.add_argument(
        "--lr", type=share, help="learning rate of the rounds; default: the profile's, as for the start"
    )
    training.add_argument("--batch-size", type=size, help="sequences an optimizer step; default: the profile's (8)")
    training.add_argument("--micro-batch-size", type=size, help="sequences at once on the device")
    training.add_argument("--from", dest="continue_from", choices=("previous", "start"), default="previous")
    training.add_argument(
        "--optimizer", choices=("reset", "keep"), default="reset", help="AdamW's states in each round"
    )
    training.add_argument("--keep-rounds", type=size, help="rounds whose weights stay on the disk; default: all")
    parser.add_argument("--eval-size", type=size, help="validation problems; default: the profile's (256)")
    parser.add_argument("--test", action="store_true", help="measure on the test split once, after the last round")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    sampler_options.add_sampler(parser, gpu_memory_utilization=0.3)
    parser.add_argument("--plot", metavar="FILE", help="draw the rounds: .png, .svg or .pdf")
    common.add_json(parser)


def ei_config(args: argparse.Namespace, profile: Profile, *, gpu: bool) -> ExpertIterationConfig:
    """The settings of the run: the profile's, with what the command line says."""
    from cs336_sft.expert_iteration.config import ExpertIterationConfig
    from cs336_sft.training.config import SFTConfig

    batch_size = args.batch_size or profile.batch_size
    counts = None
    if args.like:
        counts = samples_of(Path(args.like), args.rounds)
    return ExpertIterationConfig(
        rounds=args.rounds,
        questions_per_round=args.questions,
        rollouts=args.rollouts,
        temperature=args.temperature,
        top_p=args.top_p,
        min_new_tokens=args.min_tokens,
        max_new_tokens=args.limit or profile.limit,
        continue_from=args.continue_from,
        optimizer=args.optimizer,
        select=args.control if args.control in ("random", "finished", "human") else "correct",
        per_question_cap=1 if args.control == "one-per-question" else args.cap,
        drop_duplicates=not args.keep_duplicates,
        judge=args.judge,
        add_format=args.add_format,
        grader_error=args.grader_error,
        truncated=args.truncated,
        append_eos=not args.no_eos,
        samples_per_round=counts,
        keep_rounds=args.keep_rounds,
        seed=args.seed,
        sft=SFTConfig(
            learning_rate=args.lr or profile.learning_rate,
            epochs=args.epochs,
            batch_size=batch_size,
            micro_batch_size=min(args.micro_batch_size or profile.microbatch_size, batch_size),
            mixed_precision=profile.mixed_precision if gpu else "no",
            keep_checkpoints=1,
            progress=False,
        ),
    )


def samples_of(folder: Path, rounds: int) -> tuple[int, ...]:
    """How many samples each round of another run trained on.

    Raises:
        ConfigError: it has fewer finished rounds.
    """
    from cs336_sft.expert_iteration.result import load_expert_iteration

    counts = tuple(record["kept_n"] for record in load_expert_iteration(folder).rounds if record["round"] > 0)
    if len(counts) < rounds:
        raise ConfigError(f"--like {folder}: has {len(counts)} rounds, not {rounds}", "finish that run first")
    return counts[:rounds]


def run(args: argparse.Namespace) -> int:
    from cs336_sft.cli.plot import FORMATS
    from cs336_sft.experiments.run import overlap
    from cs336_sft.expert_iteration.loop import run_expert_iteration
    from cs336_sft.generation.make_sampler import make_sampler
    from cs336_sft.model.loading import best_device
    from cs336_sft.prompts import get_template
    from cs336_sft.tokenization import make_examples
    from cs336_sft.training.loop import train_sft
    from cs336_sft.utils.distributed import is_main, own_device

    profile = common.chosen_profile(args)
    template = get_template(args.template or profile.template)
    run_dir = Path(args.out)
    if run_dir.is_file():
        raise ConfigError(f"{args.out} is a file", "give a run directory")
    plot = common.output_file(args.plot)
    if plot is not None and plot.suffix.lower() not in FORMATS:
        raise ConfigError(f"{plot} is not a picture's name", f"end it in {', '.join(FORMATS)}")
    config = ei_config(args, profile, gpu=best_device() == "cuda")
    pool_size, sft_size = max(args.pool or 0, config.questions_per_round), args.sft_size or 0
    whole = args.data if args.data and not Path(args.data).is_file() else None
    used = args.skip + sft_size
    training = profile.problems("train", used + pool_size, seed=args.seed, source=args.data)
    pool = training[used : used + pool_size]
    size = args.eval_size or profile.eval_size
    validation = profile.problems("validation", size, source=args.eval_data or whole)
    test = profile.problems("test", size, source=whole) if args.test else []
    if shared := overlap(training, [*validation, *test]):
        common.note(
            f"warning: {shared} evaluation problems are among the training problems: they say nothing of new ones"
        )

    engine = sampler_options.vllm_config(args, config.max_new_tokens)

    model, tokenizer = common.load(profile, device=str(own_device()))
    # The engine first: it takes its share of what is free on the card, the trainer the rest.
    # Of several processes each samples its share with Hugging Face; an engine is the main one's alone.
    options = {"source": profile.model_source(), "batch_size": args.generation_batch, "vllm": engine}
    own_sampler = args.sampler == "hf" or is_main()
    with make_sampler(args.sampler, model, tokenizer, **options) if own_sampler else nullcontext() as sampler:
        if sft_size:
            examples = make_examples(training[args.skip : used], template, tokenizer)
            start = replace(
                config.sft,
                learning_rate=profile.learning_rate,
                epochs=args.sft_epochs,
                eval_every=None,
                seed=args.seed,
            )
            if train_sft(model, tokenizer, examples, start, run_dir / "start").interrupted:
                return 130
        result = run_expert_iteration(
            model,
            tokenizer,
            pool,
            template,
            config,
            run_dir / "ei" if sft_size else run_dir,
            sampler=sampler,
            validation=validation,
            test=test,
            cache_dir=args.cache,
            report=lambda record: common.note(describe(record)),
        )
    if not is_main():  # of several processes one speaks
        return 0
    if plot is not None and result.rounds:
        from cs336_sft.experiments.ei_plots import plot_rounds

        plot.parent.mkdir(parents=True, exist_ok=True)
        plot_rounds({run_dir.name: [result.rounds]}).savefig(plot, dpi=150, bbox_inches="tight")
    report(args, profile, result)
    return 130 if result.interrupted else 0


def describe(record: dict[str, Any]) -> str:
    """One line of progress."""
    text = f"round {record['round']}: validation accuracy {100 * record['accuracy']:.1f} %"
    if record["round"]:
        text += (
            f"; of {record['rollout_n']} samples {100 * record['rollout_pass_rate']:.1f} % correct, "
            f"trained on {record['kept_n']} for {record['steps']} steps"
        )
    return text


def report(args: argparse.Namespace, profile: Profile, result: ExpertIterationResult) -> None:
    """Print the outcome: the rounds as a table, or everything as JSON."""
    if args.json:
        common.print_json(
            {
                "run": str(result.run_dir),
                "profile": profile.name,
                "interrupted": result.interrupted,
                "rounds": list(result.rounds),
                "test": result.test,
            }
        )
        return
    header = (
        "round",
        "steps",
        "kept",
        "pass rate",
        "coverage",
        "accuracy",
        "lenient",
        "in format",
        "length",
        "entropy",
    )
    rows = []
    for record in result.rounds:
        shares = [
            "-" if record.get(name) is None else f"{100 * record[name]:.1f} %"
            for name in ("rollout_pass_rate", "rollout_coverage", "accuracy", "accuracy_lenient", "format_accuracy")
        ]
        entropy = record.get("rollout_entropy")
        rows.append(
            (
                record["round"],
                record["steps"],
                record.get("kept_n", "-"),
                *shares,
                f"{record['avg_gen_len']:.1f}",
                "-" if entropy is None else f"{entropy:.3f}",
            )
        )
    common.print_table(header, rows)
    if result.test is not None:
        print("\ntest split")
        common.print_metrics(result.test)
    print(f"\nrun directory: {result.run_dir}" + ("" if result.interrupted else f"; model: {result.run_dir / 'final'}"))
