"""``cs336-sft memory``: the memory of a training step, estimated from the model's shape and, if asked, measured.

cs336-sft memory --profile qwen2.5-math-1.5b --micro-batch-size 12 --seq-len 1023 --method naive
cs336-sft memory --measure --micro-batch-size 8 --seq-len 255 --gradient-checkpointing
cs336-sft memory --model Qwen/Qwen2.5-1.5B --seq-len 512 --budget 40
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError
from cs336_sft.experiments.profiles import get_profile, with_model
from cs336_sft.model.loading import best_device, quiet_libraries
from cs336_sft.model.memory_estimate import ADAPTERS, METHODS, PRECISIONS, StepSetup, estimate_memory, format_bytes

if TYPE_CHECKING:
    from cs336_sft.experiments.profiles import Profile

_PARAMETERS_TO_MEASURE = 200e6  # on a CPU; above this a step takes minutes and many GB


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("memory", help="estimate or measure the memory of a training step")
    count = common.positive_int
    parser.add_argument("--profile", metavar="NAME", help="default: $CS336_PROFILE, else tiny")
    parser.add_argument("--model", metavar="DIR", help="a model folder or hub name in place of the profile's model")
    parser.add_argument("--micro-batch-size", type=count, help="sequences at once; default: the profile's")
    parser.add_argument("--seq-len", type=count, default=512, help="positions of a sequence (default 512)")
    parser.add_argument("--precision", choices=PRECISIONS, help="fp32, mixed or bf16; default: the profile's")
    parser.add_argument("--method", choices=METHODS, default="one_pass", help="way to compute the log-probs (default one_pass)")
    parser.add_argument(
        "--chunk", type=count, default=1024, help="positions at once for --method chunked (default 1024)"
    )
    parser.add_argument("--gradient-checkpointing", action="store_true", help="recompute activations in the backward")
    parser.add_argument("--grad-accumulation", action="store_true", help="count gradients of an earlier micro-batch")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, but cpu for the profile tiny")
    parser.add_argument("--adapter", choices=ADAPTERS, default="none", help="train lora or qlora (default none)")
    parser.add_argument("--lora-r", type=count, default=16, help="rank of the adapter (default 16)")
    budget = "find the largest micro-batch that fits, in 1e9 bytes"
    parser.add_argument("--budget", type=common.positive_float, metavar="GB", help=budget)
    parser.add_argument(
        "--measure", action="store_true", help="run the step with random weights, on a GPU if there is one"
    )
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.model.batch_size import Trial, find_batch_size, search_batch
    from cs336_sft.model.shape import shape_of

    profile = with_model(get_profile(args.profile), args.model)
    if args.micro_batch_size and args.budget:
        raise ConfigError(
            "--micro-batch-size and --budget together",
            "give --micro-batch-size to look at one size, --budget to find one",
        )
    mixed = "mixed" if profile.mixed_precision == "bf16" or args.adapter != "none" else "fp32"
    setup = StepSetup(
        micro_batch_size=args.micro_batch_size or profile.micro_batch_size,
        seq_len=args.seq_len,
        precision=args.precision or mixed,
        method=args.method,
        chunk=args.chunk,
        gradient_checkpointing=args.gradient_checkpointing,
        grad_accumulation=args.grad_accumulation,
        device=_device(args, profile),
        adapter=args.adapter,
        lora_r=args.lora_r,
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
            found = f"{size} fits into {format_bytes(budget)}"
            print(f"{found}, by {'measurement' if args.measure else 'estimate'}\n")
    estimate = estimate_memory(shape, setup)
    result = estimate.as_dict() | {"parameters": shape.parameters} | result
    if args.measure:
        from cs336_sft.model.memory_measurement import measure_memory

        result["measurement"] = measure_memory(_random_model(shape, setup), setup).as_dict()
    if args.json:
        common.print_json(result)
    else:
        _print(result)


def _device(args: argparse.Namespace, profile: Profile) -> Literal["cuda", "cpu"]:
    if args.measure:
        here = best_device()
        if args.device not in (None, here):
            raise ConfigError(
                f"--device {args.device} with --measure", f"leave it out: this machine measures on {here}"
            )
        return here
    return args.device or ("cpu" if profile.name == "tiny" else "cuda")


def _random_model(shape: Any, setup: StepSetup) -> Any:
    from cs336_sft.model.memory_measurement import build_model

    if setup.device == "cpu" and shape.parameters > _PARAMETERS_TO_MEASURE:
        raise ConfigError(
            f"{shape.name} has {shape.parameters / 1e6:.0f} million parameters, too many to measure on a CPU",
            "leave out --measure, or run it on a GPU",
        )
    quiet_libraries()
    return build_model(shape, setup, setup.device)


def _print(result: dict[str, Any]) -> None:
    setup = result["setup"]
    facts = [
        f"{result['model']}, {result['parameters'] / 1e6:,.1f} million parameters",
        f"micro-batch {setup['micro_batch_size']} x {setup['seq_len']}, {setup['precision']}, {setup['method']}",
    ]
    facts += [name for name in ("gradient_checkpointing", "grad_accumulation") if setup[name]]
    facts += [f"{setup['adapter']}, rank {setup['lora_r']}"] if setup["adapter"] != "none" else []
    print("; ".join(facts) + "\n")
    common.print_table(("what there is", "size"), [(k, format_bytes(v)) for k, v in result["terms"].items()])
    print()
    rows = [(k, format_bytes(v), "<- peak" if k == result["peak_moment"] else "") for k, v in result["moments"].items()]
    common.print_table(("alive at this moment", "size", ""), rows)
    if measured := result.get("measurement"):
        print(f"\nmeasured on {measured['device']}, random weights")
        terms, moments = result["terms"], result["moments"]
        rows = [
            ("weights", terms["weights"], measured["weights"]),
            ("gradients", terms["gradients"], measured["gradients"]),
            ("optimizer states", terms["optimizer states"], measured["states"]),
            ("peak, forward", moments["forward: logits"], measured["forward"]),
            ("peak, backward", max(v for k, v in moments.items() if k.startswith("backward")), measured["backward"]),
            ("peak, update", moments["update"], measured["update"]),
            ("peak", result["peak"], measured["peak"]),
        ]
        common.print_table(
            ("", "estimate", "measured", "difference"),
            [(name, format_bytes(e), format_bytes(m), f"{100 * (e / m - 1):+.1f} %") for name, e, m in rows],
        )
