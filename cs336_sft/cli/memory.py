"""``cs336-sft memory``: the memory of a training step, estimated from the model's shape and, if asked, measured.

cs336-sft memory --profile qwen2.5-math-1.5b --micro-batch-size 12 --seq-len 1023 --method naive
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import Any

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError
from cs336_sft.experiments.profiles import get_profile, with_model
from cs336_sft.model.loading import best_device, quiet_libraries
from cs336_sft.model.memory_estimate import ADAPTERS, METHODS, PRECISIONS, StepSetup, estimate_memory, format_bytes

_PARAMETERS_TO_MEASURE = 200e6  # on a CPU; above this a step takes minutes and many GB


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("memory", help="estimate or measure the memory of a training step")
    option, count = parser.add_argument, common.positive_int
    option("--profile", metavar="NAME", help="default: $CS336_PROFILE, else tiny")
    option("--model", metavar="DIR", help="a model folder, or a known model's hub name (default: the profile's)")
    option("--micro-batch-size", type=count, help="sequences at once; default: the profile's")
    option("--seq-len", type=count, default=512, help="positions of a sequence (default 512)")
    option("--precision", choices=PRECISIONS, help="fp32, mixed or bf16; default: the profile's")
    option("--method", choices=METHODS, default="one_pass", help="way to compute the log-probs (default one_pass)")
    option("--gradient-checkpointing", action="store_true", help="recompute activations in the backward")
    option("--grad-accumulation", action="store_true", help="count gradients of an earlier micro-batch")
    option("--adapter", choices=ADAPTERS, default="none", help="train lora or qlora (default none)")
    budget = "find the largest micro-batch that fits, in 1e9 bytes"
    option("--budget", type=common.positive_float, metavar="GB", help=budget)
    option("--measure", action="store_true", help="run the step with random weights, on a GPU if there is one")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.model.batch_size import Trial, find_batch_size, search_batch
    from cs336_sft.model.shape import shape_of

    profile = with_model(get_profile(args.profile), args.model)
    if args.micro_batch_size and args.budget:
        remedy = "give --micro-batch-size to look at one size, --budget to find one"
        raise ConfigError("--micro-batch-size and --budget together", remedy)
    mixed = "mixed" if profile.mixed_precision == "bf16" or args.adapter != "none" else "fp32"
    setup = StepSetup(
        micro_batch_size=args.micro_batch_size or profile.micro_batch_size,
        seq_len=args.seq_len,
        precision=args.precision or mixed,
        method=args.method,
        gradient_checkpointing=args.gradient_checkpointing,
        grad_accumulation=args.grad_accumulation,
        device=best_device() if args.measure else "cpu" if profile.name == "tiny" else "cuda",
        adapter=args.adapter,
    )
    shape = shape_of(profile.model)
    result: dict[str, Any] = {}
    if args.budget:
        budget = round(args.budget * 1e9)

        def fits(batch: int) -> Trial:
            peak = estimate_memory(shape, replace(setup, micro_batch_size=batch)).peak
            return Trial(batch, peak, peak <= budget)

        if args.measure:
            search = find_batch_size(lambda: _random_model(shape, setup), setup, budget)
        else:
            search = search_batch(fits, budget, largest=4096)
        result["search"] = asdict(search)
        setup = replace(setup, micro_batch_size=max(search.batch, 1))
        if not args.json:
            size = f"micro-batch {search.batch}" if search.batch else "not even one sequence"
            print(f"{size} fits into {format_bytes(budget)}, by {'measurement' if args.measure else 'estimate'}\n")
    result = estimate_memory(shape, setup).as_dict() | {"parameters": shape.parameters} | result
    if args.measure:
        from cs336_sft.model.memory_measurement import measure_memory

        result["measurement"] = measure_memory(_random_model(shape, setup), setup).as_dict()
    if args.json:
        common.print_json(result)
    else:
        _print(result)


def _random_model(shape: Any, setup: StepSetup) -> Any:
    from cs336_sft.model.memory_measurement import build_model

    if setup.device == "cpu" and shape.parameters > _PARAMETERS_TO_MEASURE:
        problem = f"{shape.name} has {shape.parameters / 1e6:.0f} million parameters, too many to measure on a CPU"
        raise ConfigError(problem, "leave out --measure, or run it on a GPU")
    quiet_libraries()
    return build_model(shape, setup, setup.device)


def _print(result: dict[str, Any]) -> None:
    setup = result["setup"]
    facts = [
        f"{result['model']}, {result['parameters'] / 1e6:,.1f} million parameters",
        f"micro-batch {setup['micro_batch_size']} x {setup['seq_len']}, {setup['precision']}, {setup['method']}",
    ]
    facts += [name for name in ("gradient_checkpointing", "grad_accumulation") if setup[name]]
    if setup["adapter"] != "none":
        facts.append(f"{setup['adapter']}, rank {setup['lora_r']}")
    print("; ".join(facts) + "\n")
    common.print_table(("what there is", "size"), [(k, format_bytes(v)) for k, v in result["terms"].items()])
    print()
    rows = [(k, format_bytes(v), "<- peak" if k == result["peak_moment"] else "") for k, v in result["moments"].items()]
    common.print_table(("alive at this moment", "size", ""), rows)
    if measured := result.get("measurement"):
        print(f"\nmeasured on {measured['device']}, random weights")
        terms, moments = result["terms"], result["moments"]
        backward = max(value for name, value in moments.items() if name.startswith("backward"))
        both = [
            ("weights", terms["weights"], measured["weights"]),
            ("gradients", terms["gradients"], measured["gradients"]),
            ("optimizer states", terms["optimizer states"], measured["states"]),
            ("peak, forward", moments["forward: logits"], measured["forward"]),
            ("peak, backward", backward, measured["backward"]),
            ("peak, update", moments["update"], measured["update"]),
            ("peak", result["peak"], measured["peak"]),
        ]
        rows = [(name, format_bytes(e), format_bytes(m), f"{100 * (e / m - 1):+.1f} %") for name, e, m in both]
        common.print_table(("", "estimate", "measured", "difference"), rows)
