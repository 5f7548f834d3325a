"""Tokens under their mask: the learner's, the expected one, and where they first part."""

from __future__ import annotations

from collections.abc import Sequence

from cs336_sft.exercises.report import Line, Span, line


def mask_lines(
    tokens: Sequence[str], expected: Sequence[bool], yours: Sequence[bool], name: str = "mask"
) -> list[Line]:
    """Three aligned rows and a pointer: tokens, expected mask, the learner's mask, first difference.

    Without colour it reads the same: ``x`` is supervised, ``.`` is not.

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
        spans: list[Span] = [(f"{head:<15}", "")]
        for (text, style), w in zip(cells, width, strict=True):
            spans += [(text.ljust(w), style), (" ", "")]
        return tuple(spans)

    lines = [
        row("labels", [(token, "strong" if want else "dim") for token, want in zip(tokens, expected, strict=True)]),
        row(f"expected {name}", [("x" if want else ".", "good" if want else "dim") for want in expected]),
        row(
            f"your {name}",
            [("x" if has else ".", "bad" if i in wrong else "") for i, has in enumerate(yours)],
        ),
    ]
    if wrong:
        i = wrong[0]
        fact = "is supervised and should not be" if yours[i] else "is not supervised and should be"
        space = " " * sum(w + 1 for w in width[:i])
        lines.append(line(f'{"first wrong":<15}{space}^ position {i}: "{tokens[i]}" {fact}', "bad"))
    return lines
