"""What a check found, as plain text, coloured text or HTML; masks under their tokens."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "not attempted", "wrong", "crashed"]

_ANSI = {"good": "32", "bad": "31", "dim": "2", "strong": "1"}
_CSS = {"good": "color:#238636", "bad": "color:#da3633", "dim": "opacity:0.65", "strong": "font-weight:bold"}
_STATUS_STYLE = {"passed": "good", "not attempted": "dim", "wrong": "bad", "crashed": "bad"}

# A line is a sequence of (text, style); style "" is plain.
Span = tuple[str, str]
Line = tuple[Span, ...]


def line(text: str, style: str = "") -> Line:
    """Make a line of one style."""
    return ((text, style),)


@dataclass(frozen=True)
class Failure:
    """Why a file does not pass."""

    status: Status
    message: str  # what is wrong, in terms of the task
    detail: tuple[Line, ...] = ()  # the smallest case that shows it
    slip: str = ""  # name of the known slip that gives exactly what was seen

    @property
    def hint(self) -> int:
        """Return which of the three hints to read."""
        return 2 if self.slip else 1


@dataclass(frozen=True)
class Report:
    """The result of one exercise's check; shows itself in a notebook."""

    exercise: str  # number and name, "ex03 masked_normalize"
    file: str  # what was checked, as the learner knows it
    failure: Failure | None = None  # None if it passed
    printed: str = ""  # the end of what the learner's code printed
    seconds: float = field(default=0.0, compare=False)

    @property
    def status(self) -> Status:
        return self.failure.status if self.failure else "passed"

    @property
    def passed(self) -> bool:
        return self.failure is None

    def __bool__(self) -> bool:
        return self.passed

    def lines(self) -> list[Line]:
        """Return the report line by line."""
        shown = [
            ((self.exercise, "strong"), (": ", ""), (self.status.upper(), _STATUS_STYLE[self.status])),
            line(f"  checked: {self.file}", "dim"),
        ]
        if self.failure:
            shown += [line(f"  {part}") for part in self.failure.message.splitlines()]
            shown += [(("    ", ""), *spans) for spans in self.failure.detail]
            number = self.exercise.split()[0]
            if self.failure.slip:
                shown.append((("  known slip: ", ""), (self.failure.slip, "strong")))
            shown.append(line(f"  to go on: cs336-sft hint {number} {self.failure.hint}"))
        if self.printed.strip() and not self.passed:
            shown.append(line("  your code printed:", "dim"))
            shown += [line(f"  | {part}", "dim") for part in self.printed.rstrip().splitlines()[-10:]]
        return shown

    def text(self, *, colour: bool = False) -> str:
        """Return the report as text, with ANSI colours if asked for."""
        return "\n".join("".join(_ansi(span, colour) for span in spans) for spans in self.lines())

    def as_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        failure = self.failure
        return {
            "exercise": self.exercise,
            "file": self.file,
            "status": self.status,
            "message": failure.message if failure else "",
            "slip": failure.slip if failure else "",
            "hint": failure.hint if failure else None,
            "seconds": round(self.seconds, 3),
        }

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        rows = ("".join(_html(span) for span in spans) for spans in self.lines())
        return "<pre>" + "\n".join(rows) + "</pre>"


def mask_lines(tokens: Sequence[str], expected: Sequence[bool], yours: Sequence[bool]) -> list[Line]:
    """Show tokens, the expected mask and the learner's in three aligned rows.

    ``x`` is supervised, ``.`` is not; a fourth line points at the first difference.

    >>> lines = mask_lines(["2", "+", "=", "5"], [False, False, False, True], [False, False, True, False])
    >>> print("\\n".join("".join(text for text, _ in spans).rstrip() for spans in lines))
    labels         2 + = 5
    expected mask  . . . x
    your mask      . . x .
    first wrong        ^ position 2: "=" is supervised and should not be
    """
    width = [max(len(token), 1) for token in tokens]
    wrong = [i for i, (a, b) in enumerate(zip(expected, yours, strict=True)) if bool(a) != bool(b)]

    def row(head: str, cells: Sequence[Span]) -> Line:
        padded = [(f"{text:<{w}} ", style) for (text, style), w in zip(cells, width, strict=True)]
        return ((f"{head:<15}", ""), *padded)

    lines = [
        row("labels", [(token, "strong" if want else "dim") for token, want in zip(tokens, expected, strict=True)]),
        row("expected mask", [("x" if want else ".", "good" if want else "dim") for want in expected]),
        row("your mask", [("x" if has else ".", "bad" if i in wrong else "") for i, has in enumerate(yours)]),
    ]
    if wrong:
        i = wrong[0]
        fact = "is supervised and should not be" if yours[i] else "is not supervised and should be"
        space = " " * sum(w + 1 for w in width[:i])
        lines.append(line(f'{"first wrong":<15}{space}^ position {i}: "{tokens[i]}" {fact}', "bad"))
    return lines


def _ansi(span: Span, colour: bool) -> str:
    text, style = span
    # Their text must not steer the terminal (nor paint a result of its own).
    text = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f"\033[{_ANSI[style]}m{text}\033[0m" if colour and style else text


def _html(span: Span) -> str:
    text, style = span
    return f'<span style="{_CSS[style]}">{html.escape(text)}</span>' if style else html.escape(text)
