"""The command ``cs336-sft``: each module adds its commands, and imports what is heavy only when one runs.

Results go to stdout, progress and errors to stderr. The exit status is 0, 1 (an exercise or a run fails), 2 (a mistake
that one line explains) or 130 (Ctrl-C).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from cs336_sft.errors import CourseError
from cs336_sft.utils.distributed import leave
from cs336_sft.utils.validation import nearest_name

# Modules of this package in the order of the help text; each adds its commands and what runs them.
MODULES = ("doctor", "memory", "evaluate", "sft", "sweep", "ei", "grade", "data", "exercises")


class Parser(argparse.ArgumentParser):
    """An argument parser that takes options in full only and names the nearest to a misspelt one."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        namespace, rest = super().parse_known_args(args, namespace)
        for option in rest:
            if option.startswith("--"):
                name, known = option.split("=")[0], [text for text in self._option_string_actions if "--" in text]
                # Without the dashes, which would make every two short options alike.
                remedy = nearest_name(name.strip("-"), [text.strip("-") for text in known])
                remedy = remedy.replace("'", "'--", 1) if remedy.startswith("write") else f"see {self.prog} --help"
                self.error(f"there is no option {name}. Remedy: {remedy}")
        return namespace, rest


def build_parser() -> argparse.ArgumentParser:
    from cs336_sft import __version__

    parser = Parser(
        prog="cs336-sft",
        description="Supervised fine-tuning of a small language model on grade-school maths, step by step.",
        epilog="Start with `cs336-sft doctor`; each command explains itself with --help.",
    )
    parser.add_argument("--version", action="version", version=f"cs336-sft {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in MODULES:
        import_module(f"cs336_sft.cli.{module}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a model's text may hold characters that the console can't show
            stream.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args((sys.argv[1:] if argv is None else list(argv)) or ["--help"])
    try:
        status = args.run(args)
        leave()  # the processes of a launch; after an error the launcher ends them
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
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        remedy = "lower --micro-batch-size or --gen-batch-size and give the command again: a run goes on where it was"
        return _fail(f"{str(error).split('. ')[0]}. Remedy: {remedy}.")
    except KeyboardInterrupt:
        print("cs336-sft: interrupted", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"cs336-sft: {' '.join(message.split())}", file=sys.stderr)
    return 2
