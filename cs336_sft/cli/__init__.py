"""The command ``cs336-sft``: one module a command, each with ``add_parser(subparsers)`` and ``run(args)``.

Modules import what is heavy inside ``run``, so that ``cs336-sft --help`` does not wait for PyTorch. A result goes to
stdout (with ``--json`` nothing else does), progress and errors to stderr. Exit status: 0, or 2 for a mistake that the
user can mend, told in one line; 1 for an exercise that does not pass; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cs336_sft.errors import CourseError

# Command -> module of this package, in the order of the help text.
COMMANDS = {
    "doctor": "doctor",
    "lengths": "lengths",
    "memory": "memory",
    "eval": "evaluate",
    "sft": "sft",
    "sweep": "sweep",
    "merge": "merge",
    "ei": "ei",
    "plot": "plot",
    "grade": "grade",
    "generate-data": "generate_data",
    "fetch": "fetch",
    "check": "check",
    "hint": "hint",
    "solution": "solution",
    "reset": "reset",
    "progress": "progress",
    "watch": "watch",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    from cs336_sft import __version__

    parser = argparse.ArgumentParser(
        prog="cs336-sft",
        description="Supervised fine-tuning of a small language model on grade-school maths, step by step.",
        epilog="Start with `cs336-sft doctor`; each command explains itself with --help.",
    )
    parser.add_argument("--version", action="version", version=f"cs336-sft {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS.values():
        import_module(f"cs336_sft.cli.{module}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    >>> main(["lengths", "--data", "nowhere.jsonl", "--tokenizer", "./nowhere"])
    2
    """
    args = build_parser().parse_args(argv)
    try:
        status = import_module(f"cs336_sft.cli.{COMMANDS[args.command]}").run(args)
        sys.stdout.flush()
        return status or 0
    except CourseError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader (`| head`) has gone. Python would complain once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(f"{where}{error.strerror or error}. Remedy: check the path, its permissions and the free space.")
    except KeyboardInterrupt:
        print("cs336-sft: interrupted", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"cs336-sft: {' '.join(message.split())}", file=sys.stderr)
    return 2
