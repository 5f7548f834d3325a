"""What several commands share: options, tables, JSON, and loading a model without noise."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.profiles import PROFILE_NAMES, Profile, get_profile, with_model
from cs336_sft.prompts import TEMPLATE_NAMES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def add_profile(parser: argparse.ArgumentParser, *, model: bool = False) -> None:
    """``--profile``, and ``--model`` where a command loads one."""
    parser.add_argument(
        "--profile", metavar="NAME", help=f"{', '.join(PROFILE_NAMES)}; default: $CS336_PROFILE, else tiny"
    )
    if model:
        parser.add_argument("--model", metavar="DIR", help="a model folder or hub name in place of the profile's model")
        parser.add_argument(
            "--template", choices=TEMPLATE_NAMES, help="prompt template and answer format; default: the profile's"
        )


def add_data(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--data", metavar="PATH", help=text)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, nothing else")


def positive_int(text: str) -> int:
    """An argparse type: a whole number from 1."""
    if not text.strip().isascii() or not text.strip().isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def chosen_profile(args: argparse.Namespace) -> Profile:
    """The profile of ``--profile``, with the model of ``--model`` if given."""
    return with_model(get_profile(args.profile), getattr(args, "model", None))


def load(profile: Profile, *, device: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The profile's model and tokenizer, with the loaders' progress bars and notices off."""
    from cs336_sft.model.loading import load_model_and_tokenizer

    quiet_libraries()
    return load_model_and_tokenizer(profile.model_source(), device=device)


def quiet_libraries() -> None:
    """Switch off transformers' progress bars and notices for this process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def note(message: str) -> None:
    """A line of progress, on stderr."""
    print(message, file=sys.stderr, flush=True)


def confirmed(question: str) -> bool:
    """Asks on the terminal; no where there is nobody to ask."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def print_json(value: Any) -> None:
    """One JSON object on stdout; a number that JSON lacks is a bug here, not in the reader."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print("  ".join(cells).rstrip())


def rate(metrics: dict[str, Any], name: str) -> str:
    """A rate with its interval, in percent.

    >>> rate({"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}, "accuracy")
    '50.0 % (40.0 to 60.0)'
    """
    return f"{100 * metrics[name]:.1f} % ({100 * metrics[f'{name}_low']:.1f} to {100 * metrics[f'{name}_high']:.1f})"


def print_metrics(metrics: dict[str, Any]) -> None:
    """The metrics of an evaluation as a table; rates with their 95 % intervals."""
    rows = [(name, rate(metrics, name)) for name in ("accuracy", "accuracy_lenient", "format_accuracy", "trunc_rate")]
    for name, unit in (
        ("avg_gen_len", "tokens"),
        ("avg_gen_len_correct", "tokens"),
        ("avg_gen_len_wrong", "tokens"),
        ("entropy", "nats"),
    ):
        value = metrics[name]
        rows.append((name, "-" if value is None else f"{value:.{3 if unit == 'nats' else 1}f} {unit}"))
    for name, value in rows:
        print(f"{name:<20} {value}")


def output_file(path: str | None) -> Path | None:
    """The path of a file to write, checked before minutes of work go by.

    Raises:
        ConfigError: it names a folder, or a file where a folder has to be.
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
