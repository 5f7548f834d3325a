"""``cs336-sft doctor``: what this machine can run, and about how long each lesson will take here."""

from __future__ import annotations

import argparse
from typing import Any

from cs336_sft.cli import common


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("doctor", help="what this machine can run, and how long the lessons will take")
    parser.add_argument("--no-calibration", action="store_true", help="skip the measurement of about 5 seconds")
    common.add_json(parser)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.experiments.doctor import examine

    common.quiet_libraries()
    if not args.no_calibration:
        common.note("measuring this machine for about 5 seconds")
    report = examine(calibration=not args.no_calibration)
    if args.json:
        common.print_json(report)
    else:
        print_report(report)


def print_report(report: dict[str, Any]) -> None:
    """The report as text."""
    machine = report["machine"]
    gpus = [f"{g['name']}, {g['memory_gib']} GiB, bf16 {'yes' if g['bf16'] else 'no'}" for g in machine["gpus"]]
    versions = {"Python": machine["python"], **machine["versions"]}
    vllm = versions.pop("vllm", None)
    rows = [
        ("system", machine["system"]),
        ("cores", f"{machine['cores']} usable"),
        ("memory", f"{machine['memory_gib']} GiB, {machine['memory_free_gib']} GiB free"),
        ("disk", f"{machine['disk_free_gib']} GiB free here"),
        ("GPU", "; ".join(gpus) or "none: the tiny profile needs none"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("vLLM", vllm or "not installed: the tiny profile needs none"),
        ("GSM8K", machine["gsm8k"] or f"not found: {machine['gsm8k_note']}"),
        *((f"fetched {name}", "yes" if there else "no") for name, there in machine["fetched"].items()),
        ("data folder", machine["data_folder"]),
    ]
    for name, value in rows:
        print(f"{name:<24} {value}")
    print("\nprofiles")
    for name, verdict in report["profiles"].items():
        print(f"  {name:<22} {'yes' if verdict['runs'] else 'no':<4} {verdict['note']}")
    if report["speed"]:
        speed = report["speed"]
        print("\nspeed of the embedded model")
        print(f"  {'training':<22} {speed['train_tokens_per_s']:,.0f} tokens/s")
        print(f"  {'generation':<22} {speed['generate_tokens_per_s']:,.0f} tokens/s")
    if report["lesson_seconds"]:
        print("\nlessons on the tiny profile, about")
        for name, seconds in report["lesson_seconds"].items():
            print(f"  {name:<22} {duration(seconds)}")
        print(f"  {'together':<22} {duration(sum(report['lesson_seconds'].values()))}")
    if report["note"]:
        print(f"\n{report['note']}")


def duration(seconds: float) -> str:
    """A rounded time.

    >>> duration(12.3), duration(60), duration(250)
    ('12 s', '60 s', '4 min 10 s')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds / 10) * 10, 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
