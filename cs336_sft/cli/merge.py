"""`cs336-sft merge`: an adapter added to its model's weights, as an ordinary model folder.

cs336-sft merge runs/lora/final --out runs/merged
"""

from __future__ import annotations

import argparse

from cs336_sft.cli import common
from cs336_sft.model.loading import quiet_libraries

DTYPES = ("float32", "bfloat16")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("merge", help="add a LoRA or QLoRA adapter to its model's weights")
    parser.add_argument("adapter", metavar="DIR", help="final folder of a run with --lora or --qlora")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the merged model, new or empty")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="type of the merged weights (default float32)"
    )
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    import torch

    from cs336_sft.model.lora import merge_adapter

    quiet_libraries()
    folder = merge_adapter(args.adapter, args.out, dtype=getattr(torch, args.dtype))
    if args.json:
        common.print_json({"adapter": args.adapter, "merged": str(folder), "dtype": args.dtype})
    else:
        print(folder)
