"""``cs336-sft doctor``: what this machine can run."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from cs336_sft.cli import common
from cs336_sft.model.loading import quiet_libraries


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("doctor", help="check what this machine can run")
    common.add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from cs336_sft.experiments.doctor import check_profiles, look_at_machine

    quiet_libraries()
    facts = look_at_machine()
    machine, profiles = asdict(facts), check_profiles(facts)
    if args.json:
        common.print_json({"machine": machine, "profiles": profiles})
        return
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
        *((f"fetched {name}", "yes" if fetched else "no") for name, fetched in machine["fetched"].items()),
        ("data folder", machine["data_folder"]),
    ]
    for name, value in rows:
        print(f"{name:<24} {value}")
    print("\nprofiles")
    for name, profile in profiles.items():
        print(f"  {name:<22} {'yes' if profile['runs'] else 'no':<4} {profile['note']}")
