"""``cs336-sft eval``: accuracy, format, truncation and lengths of a model, with intervals.

cs336-sft eval --profile tiny                                  # the base model, 256 validation problems
cs336-sft eval --model runs/first/final --out runs/first/validation.jsonl
cs336-sft eval --profile qwen2.5-math-1.5b --sampler vllm --max-model-len 2048
"""

from __future__ import annotations

import argparse
import time

from cs336_sft.cli import common, sampler_options


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("eval", help="measure a model: accuracy, format, truncation, lengths")
    common.add_profile(parser, model=True)
    common.add_data(parser, "problems: a JSONL file, or GSM8K as a folder or hub name; default: the profile's data")
    parser.add_argument(
        "--split",
        choices=("validation", "test", "heldout_templates", "train"),
        default="validation",
        help="validation (default); test is for the last measurement; heldout_templates exists for generated problems",
    )
    parser.add_argument("--n", type=common.positive_int, help="number of problems; default: the profile's (256)")
    parser.add_argument("--limit", type=common.positive_int, help="generation limit in tokens; default: the profile's")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    parser.add_argument("--samples", type=common.positive_int, default=1, help="answers a problem (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of problems and of sampling (0)")
    parser.add_argument("--batch-size", type=common.positive_int, default=64, help="sequences generated at once (64)")
    parser.add_argument("--out", metavar="FILE", help="write every generation to this JSONL file")
    sampler_options.add_sampler(parser, gpu_memory_utilization=0.85)
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.evaluation.evaluate import evaluate
    from cs336_sft.generation.make_sampler import make_sampler
    from cs336_sft.generation.sampler import SamplingConfig
    from cs336_sft.grading import get_reward_fn
    from cs336_sft.model.loading import best_device, load_tokenizer
    from cs336_sft.prompts import get_template

    profile = common.chosen_profile(args)
    template = get_template(args.template or profile.template)
    out = common.output_file(args.out)
    sampling = SamplingConfig(
        max_new_tokens=args.limit or profile.limit,
        temperature=args.temperature,
        n=args.samples,
        seed=args.seed,
        stop=template.stop,
        record_entropy=True,
    )
    problems = profile.problems(args.split, args.n or profile.eval_size, seed=args.seed, source=args.data)
    engine = sampler_options.vllm_config(args, sampling.max_new_tokens)
    source = profile.model_source()
    if engine is None or engine.check_parity:
        model, tokenizer = common.load(profile, device=best_device())
    else:  # the engine loads the weights itself
        common.quiet_libraries()
        model, tokenizer = None, load_tokenizer(source)
    reward_fn = get_reward_fn(template.name)
    with make_sampler(
        args.sampler, model, tokenizer, source=source, batch_size=args.batch_size, vllm=engine, progress=True
    ) as sampler:
        started = time.perf_counter()
        metrics = evaluate(sampler, problems, template, reward_fn, sampling, path=out).metrics.as_dict()
        seconds = time.perf_counter() - started
    if args.json:
        common.print_json(
            {
                "profile": profile.name,
                "model": str(source),
                "sampler": args.sampler,
                "data": args.data or profile.data,
                "split": args.split,
                "template": template.name,
                "limit": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "samples": sampling.n,
                "seed": args.seed,
                "seconds": round(seconds, 2),
                "metrics": metrics,
                "generations": None if out is None else str(out),
            }
        )
        return
    print(f"{source}: {len(problems)} problems ({args.split}), limit {sampling.max_new_tokens} tokens")
    common.print_metrics(metrics)
    print(f"{'seconds':<20} {seconds:.1f}")
    if out is not None:
        print(f"{'generations':<20} {out}")
