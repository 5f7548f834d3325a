"""``cs336-sft eval``: accuracy, format, truncation and lengths of a model, with intervals.

cs336-sft eval --model runs/first/final --out runs/first/validation.jsonl
"""

from __future__ import annotations

import argparse
import time

from cs336_sft.cli import common
from cs336_sft.cli.config_options import HELP, add_options, given_fields
from cs336_sft.cli.data import SPLITS
from cs336_sft.experiments.config import RunFields, make_config
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.model.loading import quiet_libraries

FIELDS = ("profile", "model", "template", "data", "eval_size", "max_new_tokens", "sampler", "gen_batch_size")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("eval", help="measure a model: accuracy, format, truncation, lengths")
    texts = {name: HELP[name] for name in FIELDS}
    texts["data"] = "problems: a JSONL file, or GSM8K as a folder or hub name (default: the profile's)"
    texts["eval_size"] = "number of problems (default: the profile's, 256)"
    texts["gen_batch_size"] = "sequences that the hf sampler generates at once (default 64)"
    add_options(parser, RunFields, texts)
    option, count = parser.add_argument, common.positive_int
    split = "split of the data; heldout_templates exists for generated problems only (default validation)"
    option("--split", choices=SPLITS, default="validation", help=split)
    option("--temperature", type=float, default=0.0, help="sampling temperature; 0 is greedy decoding (default 0)")
    option("--num-samples", type=count, metavar="N", default=1, help="answers to each problem (default 1)")
    option("--seed", type=int, default=0, help="random seed for choosing the problems and for sampling (default 0)")
    option("--out", metavar="FILE", help="JSONL file for every generation")
    common.add_vllm(parser, gpu_memory_utilization=0.85)
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.evaluation.evaluate import evaluate
    from cs336_sft.generation.make_sampler import make_sampler
    from cs336_sft.generation.sampler import SamplingConfig
    from cs336_sft.grading import get_reward_fn
    from cs336_sft.model.loading import best_device, load_model_and_tokenizer, load_tokenizer
    from cs336_sft.prompts import get_template

    config = make_config(config_class=RunFields, **{"gen_batch_size": 64} | given_fields(args, RunFields))
    profile, template = get_profile(config.profile), get_template(config.template)
    source, out = config.model_source(), common.output_file(args.out)
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
        facts = {name: getattr(config, name) for name in ("profile", "sampler", "template", "max_new_tokens")}
        facts |= {name: getattr(args, name) for name in ("split", "temperature", "num_samples", "seed")}
        facts |= {"model": str(source), "data": config.data or profile.data, "seconds": round(seconds, 2)}
        common.print_json(facts | {"metrics": metrics, "generations": None if out is None else str(out)})
        return
    print(f"{source}: {len(problems)} problems ({args.split}), at most {config.max_new_tokens} new tokens")
    common.print_metrics(metrics)
    print(f"{'seconds':<20} {seconds:.1f}")
    if out is not None:
        print(f"{'generations':<20} {out}")
