"""``cs336-sft sft``: supervised fine-tuning, with evaluations before the first step and on a schedule.

cs336-sft sft --train-size 512 --out runs/first
cs336-sft sft --profile smollm2 --train-size 64 --max-steps 8 --out runs/smollm2
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.cli import common, sampler_options
from cs336_sft.errors import ConfigError

if TYPE_CHECKING:
    from cs336_sft.profiles import Profile
    from cs336_sft.records import Problem
    from cs336_sft.sampling import Sampler
    from cs336_sft.sft_config import SFTConfig


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("sft", help="fine-tune a model on reference answers")
    common.add_profile(parser, model=True)
    parser.add_argument("--out", metavar="DIR", required=True, help="the run directory; one that was cut short goes on")
    common.add_data(parser, "training problems: a JSONL file, or GSM8K as a folder or hub name; default: the profile's")
    parser.add_argument(
        "--eval-data", metavar="PATH", help="evaluation problems, likewise; default: the profile's validation split"
    )
    size = common.positive_int
    parser.add_argument("--train-size", type=size, help="number of training problems; default: the profile's (512)")
    parser.add_argument("--epochs", type=size, help="passes over them; default: the profile's (3)")
    parser.add_argument("--max-steps", type=size, help="optimizer steps, in place of epochs")
    parser.add_argument("--lr", type=common.positive_float, help="peak learning rate; default: the profile's")
    parser.add_argument("--schedule", choices=("constant", "cosine", "linear"), default="constant")
    parser.add_argument("--warmup", type=int, default=0, help="steps of warm-up (0)")
    parser.add_argument("--batch-size", type=size, help="sequences an optimizer step; default: the profile's (8)")
    parser.add_argument("--micro-batch-size", type=size, help="sequences at once on the device; default: the profile's")
    parser.add_argument("--no-eos", action="store_true", help="leave the end-of-text token out of the targets")
    parser.add_argument(
        "--eval-every", type=cadence, default="log", help="N, steps as 1,8,64, `log` (1, 2, 4, ...) or `ends`"
    )
    parser.add_argument("--eval-size", type=size, help="validation problems; default: the profile's (256)")
    parser.add_argument("--limit", type=size, help="generation limit in tokens; default: the profile's")
    parser.add_argument("--test", action="store_true", help="measure on the test split once, after the last step")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of problems and of their order (0)")
    sampler_options.add_sampler(parser, gpu_memory_utilization=0.3)
    common.add_json(parser)


def cadence(text: str) -> int | tuple[int, ...] | str | None:
    """An argparse type: how often to evaluate.

    >>> cadence("20"), cadence("1,8,64"), cadence("log"), cadence("ends")
    (20, (1, 8, 64), 'log', None)
    """
    if text in ("log", "ends"):
        return {"log": "log", "ends": None}[text]
    steps = tuple(common.positive_int(step) for step in text.split(","))
    return steps if len(steps) > 1 else steps[0]


def sft_config(args: argparse.Namespace, profile: Profile, *, gpu: bool) -> SFTConfig:
    """The settings of the run: the profile's, with what the command line says otherwise."""
    from cs336_sft.sft_config import SFTConfig

    batch_size = args.batch_size or profile.batch_size
    return SFTConfig(
        learning_rate=args.lr or profile.learning_rate,
        epochs=args.epochs or profile.epochs,
        max_steps=args.max_steps,
        batch_size=batch_size,
        micro_batch_size=min(args.micro_batch_size or profile.microbatch_size, batch_size),
        warmup=args.warmup,
        schedule=args.schedule,
        seed=args.seed,
        # Autocast pays on a GPU; a CPU without bf16 units would only get slower and less exact.
        mixed_precision=profile.mixed_precision if gpu else "no",
        eval_every=args.eval_every,
    )


def run(args: argparse.Namespace) -> int:
    from cs336_sft.models import best_device
    from cs336_sft.prompts import get_template
    from cs336_sft.samplers import make_sampler
    from cs336_sft.tokenization import make_examples
    from cs336_sft.training import train_sft

    profile = common.chosen_profile(args)
    template = get_template(args.template or profile.template)
    run_dir = Path(args.out)
    if run_dir.is_file():
        raise ConfigError(f"{args.out} is a file", "give a run directory")
    config = sft_config(args, profile, gpu=best_device() == "cuda")
    training = profile.problems("train", args.train_size or profile.train_size, seed=args.seed, source=args.data)
    size = args.eval_size or profile.eval_size
    # A file of training problems has no other splits; a folder or a hub name has.
    whole = args.data if args.data and not Path(args.data).is_file() else None
    # Seed 0 whatever --seed says: runs with different seeds are compared on the same problems.
    validation = profile.problems("validation", size, source=args.eval_data or whole)
    warn_of_overlap(training, validation)
    limit = args.limit or profile.limit
    engine = sampler_options.vllm_config(args, limit)
    model, tokenizer = common.load(profile)
    examples = make_examples(training, template, tokenizer, append_eos=not args.no_eos)
    evaluation = {
        "split": "validation",
        "n_problems": len(validation),
        "problems": fingerprint_problems(validation),
        "template": template.name,
        "limit": limit,
    }
    if engine is not None:
        evaluation["sampler"] = args.sampler
    # The engine first: it takes its share of what is free on the card, the trainer the rest.
    with make_sampler(args.sampler, model, tokenizer, source=profile.model_source(), vllm=engine) as sampler:
        measure = make_evaluator(sampler, model, template, limit)
        result = train_sft(
            model,
            tokenizer,
            examples,
            config,
            run_dir,
            evaluator=lambda step: measure(validation, run_dir / "generations" / f"step-{step:06d}.jsonl"),
            evaluation=evaluation,
        )
        test = None
        if args.test and not result.interrupted:
            problems = profile.problems("test", size, source=whole)
            warn_of_overlap(training, problems)
            test = measure(problems, run_dir / "generations" / "test.jsonl")
    report(args, profile, run_dir, result, test)
    return 130 if result.interrupted else 0


def fingerprint_problems(problems: list[Problem]) -> str:
    """SHA-256 over questions and final answers, in order: the same problems by any path are the same.

    >>> from cs336_sft.records import Problem
    >>> a, b = Problem("2 + 3?", "#### 5", "5"), Problem("2 + 4?", "#### 6", "6")
    >>> fingerprint_problems([a, b]) == fingerprint_problems([b, a])
    False
    """
    text = json.dumps([(problem.question, problem.final) for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()


def warn_of_overlap(training: list[Problem], evaluation: list[Problem]) -> None:
    """Say on stderr how many evaluation problems the model is trained on."""
    seen = {problem.question for problem in training}
    if shared := sum(problem.question in seen for problem in evaluation):
        common.note(
            f"warning: {shared} of the {len(evaluation)} evaluation problems are among the training problems: "
            "what is measured on them says nothing of new ones"
        )


def make_evaluator(sampler: Sampler, model: Any, template: Any, limit: int) -> Callable[[Any, Path], dict[str, Any]]:
    """A function that generates answers with the model as it is now, grades them and keeps them in a file."""
    from cs336_sft.evaluation import evaluate
    from cs336_sft.grading import get_reward_fn
    from cs336_sft.sampling import SamplingConfig

    sampling = SamplingConfig(max_new_tokens=limit, stop=template.stop, record_entropy=True)
    reward_fn = get_reward_fn(template.name)

    def measure(problems: Any, path: Path) -> dict[str, Any]:
        sampler.update_weights(model)
        return evaluate(sampler, problems, template, reward_fn, sampling, path=path).metrics.as_dict()

    return measure


def report(args: argparse.Namespace, profile: Profile, run_dir: Path, result: Any, test: dict[str, Any] | None) -> None:
    """Print the outcome: the evaluations as a table, or everything as JSON."""
    if args.json:
        common.print_json(
            {
                "run": str(run_dir),
                "profile": profile.name,
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
        print("\ntest split")
        common.print_metrics(test)
    print(f"\nrun directory: {run_dir}" + ("" if result.interrupted else f"; model: {run_dir / 'final'}"))
