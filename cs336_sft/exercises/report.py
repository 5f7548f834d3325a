"""What a check found, as plain text, coloured text or HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["passed", "not attempted", "wrong", "crashed"]

_ANSI = {"good": "32", "bad": "31", "dim": "2", "strong": "1"}
_CSS = {"good": "color:#1a7f37", "bad": "color:#cf222e", "dim": "opacity:0.65", "strong": "font-weight:bold"}
_STATUS_STYLE = {"passed": "good", "not attempted": "dim", "wrong": "bad", "crashed": "bad"}

# A line is a sequence of (text, style); style "" is plain.
Span = tuple[str, str]
Line = tuple[Span, ...]


def line(text: str, style: str = "") -> Line:
    """A line of one style.

    >>> line("expected", "good")
    (('expected', 'good'),)
    """
    return ((text, style),)


@dataclass(frozen=True)
class Failure:
    """Why a file does not pass.

    Attributes:
        status: ``"wrong"``, ``"crashed"``, or ``"not attempted"`` where a function is still to be written.
        message: what is wrong, in terms of the task.
        detail: the smallest case that shows it.
        slip: name of the known slip that gives exactly what was seen, or "".
        hint: which of the three hints to read.
    """

    status: Status
    message: str
    detail: tuple[Line, ...] = ()
    slip: str = ""
    hint: int = 1


@dataclass(frozen=True)
class Report:
    """The verdict on one exercise; shows itself in a notebook.

    Attributes:
        exercise: its number and name, ``"ex03 masked_normalize"``.
        file: what was checked, as the learner knows it.
        failure: None if it passed.
        printed: what the learner's code printed, its end.
        seconds: how long the check took.
    """

    exercise: str
    file: str
    failure: Failure | None = None
    printed: str = ""
    seconds: float = field(default=0.0, compare=False)

    @property
    def status(self) -> Status:
        return self.failure.status if self.failure else "passed"

    @property
    def passed(self) -> bool:
        return self.failure is None

    def lines(self) -> list[Line]:
        """The report, line by line."""
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
        """The report as text, with ANSI colours if asked for."""
        return "\n".join("".join(_ansi(span, colour) for span in spans) for spans in self.lines())

    def as_dict(self) -> dict[str, object]:
        """For ``--json``."""
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


def _ansi(span: Span, colour: bool) -> str:
    text, style = span
    # Their text must not steer the terminal (nor paint a verdict of its own).
    text = "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f"\033[{_ANSI[style]}m{text}\033[0m" if colour and style else text


def _html(span: Span) -> str:
    text, style = span
    return f'<span style="{_CSS[style]}">{html.escape(text)}</span>' if style else html.escape(text)
