"""``cs336-sft eval``: accuracy, format, truncation and lengths of a model, with intervals.

cs336-sft eval --profile tiny                                  # the base model, 256 validation problems
cs336-sft eval --model runs/first/final --out runs/first/validation.jsonl
cs336-sft eval --profile qwen2.5-math-1.5b --sampler vllm --max-model-len 2048
"""

from __future__ import annotations

import argparse
import time

from cs336_sft.cli import common
from cs336_sft.cli.config_options import HELP, add_options, given_fields
from cs336_sft.experiments.config import RunFields, make_config
from cs336_sft.experiments.profiles import get_profile, with_model
from cs336_sft.model.loading import quiet_libraries

FIELDS = ("profile", "model", "template", "data", "eval_size", "max_new_tokens", "sampler", "gen_batch_size")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("eval", help="measure a model: accuracy, format, truncation, lengths")
    texts = {name: HELP[name] for name in FIELDS}
    texts["data"] = "problems: a JSONL file, or GSM8K as a folder or hub name (default: the profile's)"
    texts["eval_size"] = "number of problems (default: the profile's, 256)"
    texts["gen_batch_size"] = "sequences that the hf sampler generates at once (default 64)"
    add_options(parser, RunFields, texts)
    parser.add_argument(
        "--split",
        choices=("validation", "test", "heldout_templates", "train"),
        default="validation",
        help="split of the data; heldout_templates exists for generated problems only (default validation)",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="sampling temperature; 0 is greedy decoding (default 0)"
    )
    parser.add_argument(
        "--num-samples", type=common.positive_int, metavar="N", default=1, help="answers to each problem (default 1)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for choosing the problems and for sampling (default 0)"
    )
    parser.add_argument("--out", metavar="FILE", help="JSONL file for every generation")
    common.add_vllm(parser, gpu_memory_utilization=0.85)
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.evaluation.evaluate import evaluate
    from cs336_sft.generation.make_sampler import make_sampler
    from cs336_sft.generation.sampler import SamplingConfig
    from cs336_sft.grading import get_reward_fn
    from cs336_sft.model.loading import best_device, load_model_and_tokenizer, load_tokenizer
    from cs336_sft.prompts import get_template

    config = make_config(config_class=RunFields, **{"gen_batch_size": 64} | given_fields(args, RunFields))
    profile, template = with_model(get_profile(config.profile), config.model), get_template(config.template)
    out = common.output_file(args.out)
    sampling = SamplingConfig(
        max_new_tokens=config.max_new_tokens,
        temperature=args.temperature,
        num_samples=args.num_samples,
        seed=args.seed,
        stop=template.stop,
        record_entropy=True,
    )
    problems = profile.problems(args.split, config.eval_size, seed=args.seed, source=config.data)
    engine = common.vllm_config(args, config.sampler, config.max_new_tokens)
    source = profile.model_source()
    quiet_libraries()
    if engine is None:
        model, tokenizer = load_model_and_tokenizer(source, device=best_device())
    else:  # the engine loads the weights itself
        model, tokenizer = None, load_tokenizer(source)
    options = {"source": source, "batch_size": config.gen_batch_size, "vllm": engine, "progress": True}
    with make_sampler(config.sampler, model, tokenizer, **options) as sampler:
        started = time.perf_counter()
        reward_fn = get_reward_fn(template.style)
        metrics = evaluate(sampler, problems, template, reward_fn, sampling, path=out).metrics.as_dict()
        seconds = time.perf_counter() - started
    if args.json:
        common.print_json(
            {
                "profile": profile.name,
                "model": str(source),
                "sampler": config.sampler,
                "data": config.data or profile.data,
                "split": args.split,
                "template": template.name,
                "max_new_tokens": config.max_new_tokens,
                "temperature": args.temperature,
                "num_samples": args.num_samples,
                "seed": args.seed,
                "seconds": round(seconds, 2),
                "metrics": metrics,
                "generations": None if out is None else str(out),
            }
        )
        return
    print(f"{source}: {len(problems)} problems ({args.split}), at most {config.max_new_tokens} new tokens")
    common.print_metrics(metrics)
    print(f"{'seconds':<20} {seconds:.1f}")
    if out is not None:
        print(f"{'generations':<20} {out}")
