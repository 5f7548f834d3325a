"""Parts that several commands share: types of arguments, checks of paths, tables, JSON, and the options of vLLM."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError
from cs336_sft.utils.distributed import is_main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cs336_sft.generation.vllm_backend.config import VLLMConfig


RATES = ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, nothing else")


def positive_int(text: str) -> int:
    """Parse a whole number from 1, as an argparse type."""
    if not text.strip().isascii() or not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def positive_float(text: str) -> float:
    """Parse a finite number above 0, as an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def note(message: str) -> None:
    """Print a line of progress on stderr, one of several processes alone."""
    if is_main():
        print(message, file=sys.stderr, flush=True)


def confirmed(question: str) -> bool:
    """Ask on the terminal, and take no for an answer without one."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def print_json(value: Any) -> None:
    """Print one JSON object, and fail on a number that JSON lacks."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    print(json.dumps(value, indent=2, ensure_ascii=ascii_only, allow_nan=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in [header, *rows]]
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        print("  ".join([name.ljust(first), *map(str.rjust, cells, others)]).rstrip())


def print_records(header: str, cells: str, records: Iterable[dict[str, Any]]) -> None:
    """Print a table: a comma between headings, a blank between {name:.1%} cells."""

    def fill(cell: str, record: dict[str, Any]) -> str:
        try:
            return cell.format_map(record).replace("%", " %")
        except (KeyError, TypeError):  # the record has no such number, or None
            return "-"

    print_table(header.split(","), [[fill(cell, record) for cell in cells.split()] for record in records])


def rate(metrics: dict[str, Any], name: str) -> str:
    """Write a rate with its interval, in percent."""
    return f"{100 * metrics[name]:.1f} % ({100 * metrics[f'{name}_low']:.1f} to {100 * metrics[f'{name}_high']:.1f})"


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print the metrics of an evaluation, rates with their 95 % intervals."""
    for name in RATES:
        print(f"{name:<20} {rate(metrics, name)}")
    for name in ("avg_gen_len", "avg_gen_len_correct", "avg_gen_len_wrong"):
        print(f"{name:<20} " + ("-" if metrics[name] is None else f"{metrics[name]:.1f} tokens"))
    print(f"{'entropy':<20} " + ("-" if metrics["entropy"] is None else f"{metrics['entropy']:.3f} nats"))


def finish_run(args: argparse.Namespace, result: Any, facts: dict[str, Any], *table: Any) -> int:
    """Print a run as JSON, or its table and test, and return the exit status."""
    if is_main() and args.json:
        print_json({"run": str(result.run_dir), "interrupted": result.interrupted} | facts)
    elif is_main():
        print_records(*table)
        if test := facts.get("test"):
            print("\ntest split" + (f", weights of step {test['step']}" if "step" in test else ""))
            print_metrics(test)
        model = "" if result.interrupted else f"; model: {result.run_dir / 'final'}"
        print(f"\nrun directory: {result.run_dir}{model}")
    return 130 if result.interrupted else 0


def output_folder(path: str) -> Path:
    """Check the path of a folder to write, which must not be a file's."""
    if Path(path).is_file():
        raise ConfigError(f"{path} is a file", "give the path of a folder")
    return Path(path)


def output_file(path: str | None) -> Path | None:
    """Check the path of a file to write, before minutes of work go by.

    Raises ConfigError: it names a folder, or a file where a folder has to be.
    """
    if path is None:
        return None
    target = Path(path)
    if target.is_dir():
        raise ConfigError(f"{path} is a folder", "give the path of a file to write")
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise ConfigError(f"{path} can't be written: {parent} is a file", "give a path inside a folder")
    return target


def picture_file(path: str | None) -> Path | None:
    """Check the path of a picture to write, as ``output_file`` does."""
    target = output_file(path)
    if target is not None and target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{path} is not a picture's name", "end it in .png, .svg, .pdf")
    return target


def save_picture(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")


def add_vllm(parser: argparse.ArgumentParser, *, gpu_memory_utilization: float) -> None:
    """Add the options of the vLLM engine, with its default fraction of the GPU."""
    option = parser.add_argument_group("generation with vLLM (docs/real-models.md)").add_argument
    option("--max-model-len", type=positive_int, metavar="N", help="tokens of prompt and answer that the engine holds")
    fraction = f"fraction of the GPU's memory for the engine (default {gpu_memory_utilization:g})"
    option("--gpu-memory-utilization", type=positive_float, metavar="FRACTION", help=fraction)
    option("--kv-cache-gib", type=positive_float, metavar="GIB", help="size of the key-value cache, in place of it")
    option("--sleep", action="store_true", default=None, help="free the GPU's memory between evaluations")
    parser.set_defaults(default_gpu_memory_utilization=gpu_memory_utilization)


def vllm_config(args: argparse.Namespace, sampler: str, max_new_tokens: int) -> VLLMConfig | None:
    """Return the engine's settings, or None for the Hugging Face sampler.

    Raises ConfigError: an option of vLLM's without ``--sampler vllm``, or a limit that cannot fit.
    """
    from cs336_sft.generation.vllm_backend.config import VLLMConfig

    given: dict[str, Any] = {
        "max_model_len": args.max_model_len,
        "gpu_memory_utilization": args.gpu_memory_utilization,
        "kv_cache_memory_bytes": args.kv_cache_gib and int(args.kv_cache_gib * 2**30),
        "sleep": args.sleep,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if sampler == "hf" and given:
        raise ConfigError(f"{next(iter(given))} is a setting of vLLM", "add --sampler vllm, or leave it out")
    if sampler == "hf":
        return None
    from cs336_sft.generation.vllm_backend.runtime import import_vllm

    config = VLLMConfig(**{"gpu_memory_utilization": args.default_gpu_memory_utilization} | given)
    if config.max_model_len is not None and max_new_tokens >= config.max_model_len:
        problem = f"{max_new_tokens} new tokens leave no room for a prompt in max_model_len {config.max_model_len}"
        raise ConfigError(problem, "raise --max-model-len, or lower --max-new-tokens")
    import_vllm()
    return config
