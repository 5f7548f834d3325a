"""``cs336-sft memory``: the memory of a training step, estimated from the model's shape and, if asked, measured.

cs336-sft memory --profile qwen2.5-math-1.5b --batch 12 --length 1023 --method notes --checkpointing
cs336-sft memory --measure --batch 8 --length 255
cs336-sft memory --model Qwen/Qwen2.5-1.5B --length 512 --budget 40
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Literal

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError
from cs336_sft.model.memory_estimate import ADAPTERS, METHODS, PRECISIONS, StepSetup, estimate_memory, format_bytes

if TYPE_CHECKING:
    from cs336_sft.experiments.profiles import Profile

_PARAMETERS_TO_MEASURE = 200e6  # on a CPU; above this a step takes minutes and many GB


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("memory", help="the memory of a training step: estimate and measurement")
    parser.add_argument("--profile", metavar="NAME", help="default: $CS336_PROFILE, else tiny")
    parser.add_argument("--model", metavar="DIR", help="a model folder or hub name in place of the profile's model")
    parser.add_argument("--batch", type=common.positive_int, help="sequences a micro-batch (the profile's)")
    parser.add_argument("--length", type=common.positive_int, default=512, help="positions a sequence (512)")
    parser.add_argument("--precision", choices=PRECISIONS, help="fp32, mixed or bf16; default: the profile's")
    parser.add_argument("--method", choices=METHODS, default="one_pass", help="log-probs and entropy (one_pass)")
    parser.add_argument(
        "--chunk", type=common.positive_int, default=1024, help="positions a chunk, for --method chunked (1024)"
    )
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward")
    parser.add_argument("--accumulating", action="store_true", help="gradients of an earlier micro-batch are there")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda, but cpu for the profile tiny")
    parser.add_argument("--adapter", choices=ADAPTERS, default="none", help="lora or qlora (none)")
    parser.add_argument("--rank", type=common.positive_int, default=16, help="of the adapter (16)")
    parser.add_argument(
        "--budget",
        type=common.positive_float,
        metavar="GB",
        help="find the largest micro-batch that fits, in 1e9 bytes",
    )
    parser.add_argument(
        "--measure", action="store_true", help="run the step with random weights, on the GPU if there is one"
    )
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.model.batch_size import Trial, report, search_batch
    from cs336_sft.model.shape import shape_of

    profile = common.chosen_profile(args)
    if args.batch and args.budget:
        raise ConfigError("--batch and --budget together", "give --batch to look at one size, --budget to find one")
    mixed = "mixed" if profile.mixed_precision == "bf16" or args.adapter != "none" else "fp32"
    setup = StepSetup(
        batch=args.batch or profile.microbatch_size,
        length=args.length,
        precision=args.precision or mixed,
        method=args.method,
        chunk=args.chunk,
        checkpointing=args.checkpointing,
        accumulating=args.accumulating,
        device=_device(args, profile),
        adapter=args.adapter,
        rank=args.rank,
    )
    shape = shape_of(profile if args.model is None else args.model)
    result: dict[str, Any] = {}
    if args.budget:
        from dataclasses import asdict, replace

        budget = round(args.budget * 1e9)

        def fits(batch: int) -> Trial:
            peak = estimate_memory(shape, replace(setup, batch=batch)).peak
            return Trial(batch, peak, peak <= budget)

        search = search_batch(fits, budget, largest=4096)
        if args.measure:
            from cs336_sft.model.batch_size import find_batch_size

            search = find_batch_size(lambda: _random_model(shape, setup), setup, budget)
        result["search"] = asdict(search)
        setup = replace(setup, batch=max(search.batch, 1))
        if not args.json:
            print(f"{report(search)}, by {'measurement' if args.measure else 'estimate'}\n")
    estimate = estimate_memory(shape, setup)
    result = estimate.as_dict() | {"parameters": shape.parameters} | result
    if args.measure:
        from cs336_sft.model.memory_measurement import measure_memory

        measurement = measure_memory(_random_model(shape, setup), setup)
        result["measurement"] = measurement.as_dict()
    if args.json:
        common.print_json(result)
        return
    _print(result)


def _device(args: argparse.Namespace, profile: Profile) -> Literal["cuda", "cpu"]:
    if args.measure:
        from cs336_sft.model.loading import best_device

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
    common.quiet_libraries()
    return build_model(shape, setup, setup.device)


def _print(result: dict[str, Any]) -> None:
    setup = result["setup"]
    facts = [
        f"{result['model']}, {result['parameters'] / 1e6:,.1f} million parameters",
        f"micro-batch {setup['batch']} x {setup['length']}, {setup['precision']}, log-probs: {setup['method']}",
    ]
    facts += [name for name in ("checkpointing", "accumulating") if setup[name]]
    facts += [f"{setup['adapter']}, rank {setup['rank']}"] if setup["adapter"] != "none" else []
    print("; ".join(facts) + "\n")
    common.print_table(("what there is", "size"), [(k, format_bytes(v)) for k, v in result["terms"].items()])
    print()
    rows = [(k, format_bytes(v), "<- peak" if k == result["peak_moment"] else "") for k, v in result["moments"].items()]
    common.print_table(("alive at this moment", "size", ""), rows)
    if measured := result.get("measurement"):
        print(f"\nmeasured on {measured['device']}, random weights")
        rows = []
        for name in ("weights", "gradients"):
            rows.append((name, result["terms"][name], measured[name]))
        rows.append(("optimizer states", result["terms"]["optimizer states"], measured["states"]))
        backward = max(v for k, v in result["moments"].items() if k.startswith("backward"))
        rows.append(("peak, forward", result["moments"]["forward: logits"], measured["forward"]))
        rows.append(("peak, backward", backward, measured["backward"]))
        rows.append(("peak, update", result["moments"]["update"], measured["update"]))
        rows.append(("peak", result["peak"], measured["peak"]))
        common.print_table(
            ("", "estimate", "measured", "difference"),
            [(name, format_bytes(e), format_bytes(m), f"{100 * (e / m - 1):+.1f} %") for name, e, m in rows],
        )
