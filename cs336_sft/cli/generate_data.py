"""``cs336-sft generate-data``: write generated word problems as JSONL, in GSM8K's format.

cs336-sft generate-data --n 1000 --split train --out train.jsonl
"""

from __future__ import annotations

import argparse

from cs336_sft.cli import common


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("generate-data", help="write generated word problems as JSONL")
    parser.add_argument("--n", type=common.positive_int, required=True, help="how many")
    parser.add_argument(
        "--split", choices=("train", "validation", "test", "heldout_templates"), default="train", help="which (train)"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same problems (0)")
    parser.add_argument("--out", metavar="FILE", required=True, help="the file to write")


def run(args: argparse.Namespace) -> None:
    from cs336_sft.data.gsm8k import write_problems
    from cs336_sft.data.word_problems import generate_problems

    out = common.output_file(args.out)
    write_problems(out, generate_problems(args.n, split=args.split, seed=args.seed))
    print(f"{out}: {args.n} problems ({args.split}, seed {args.seed})")
