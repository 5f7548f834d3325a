"""Decides which part of a response is its answer.

``gsm8k``: the line after the last ``####`` with a letter, digit or number sign: ``#### 18 a day`` -> ``18 a day``.
``r1_zero``: the last complete ``<answer>…</answer>`` after the first ``</think>``; tags are case-sensitive.
``question_only``: the last complete ``\\boxed{…}``, the outermost one of nested boxes.
"""

from __future__ import annotations

import re
from typing import NamedTuple, get_args

from cs336_sft.errors import ConfigError
from cs336_sft.prompts import Style

STYLES: tuple[Style, ...] = get_args(Style)

_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"
_LINE_ENDS = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_ANSWER_LINE = re.compile(rf"(?:[^\w√∞{_LINE_ENDS}]|_)*+[\w√∞][^{_LINE_ENDS}]*")  # has a letter, digit, √ or ∞
_BRACES = re.compile(r"\\boxed[ \t\n]{0,8}\{|\\\\|\\[{}]|[{}]")
# A sign, digit or operator that stands outside the box and is part of the number.
_GLUED_BEFORE = re.compile(
    r"(?:(?:\d[.,]?|[/^])\$?|[-−–]\$?|[=(:][ \t]*[-−–][ \t]*\$?|[+×÷±√][ \t]*\$?|\\(?:times|cdot|div|pm|sqrt)[ \t]*"
    r"|\\boxed[ \t]*\{[^{}]*\}[ \t]*)\Z"
)
_GLUED_AFTER = re.compile(
    r"\$?(?:[\d^!]|[.,]\d|[ \t]*[-−–/*+×÷][ \t]*[\d\\$]|[ \t]*\\(?:times|cdot|div|pm|frac|boxed)\b)"
)


class Span(NamedTuple):
    """A piece of the response, ``text[start:end]``; ``glued`` if a sign or digit next to it belongs to its number."""

    start: int
    end: int
    glued: bool = False


def find_span(text: str, style: Style, first: bool = False) -> Span | None:
    """Find the answer in a text, or None if it is missing, empty or incomplete.

    ``first`` takes the first ``####`` in place of the last; the other styles ignore it.

    >>> find_span("#### 18 a day", "gsm8k")
    Span(start=4, end=13, glued=False)
    """
    if style == "gsm8k":
        return _after_hashes(text, first)
    if style == "r1_zero":
        return _in_answer_tags(text)
    if style == "question_only":
        return _in_box(text)
    raise ConfigError(f"no grading style is called {style!r}", f"choose one of {', '.join(STYLES)}")


def _after_hashes(text: str, first: bool) -> Span | None:
    found = None
    end = len(text)
    mark = text.rfind("####")
    while mark >= 0 and (first or found is None):
        line = _ANSWER_LINE.match(text, mark + 4, end)  # at most to the next marker
        if line:
            found = Span(mark + 4, line.end())
        end = mark
        mark = text.rfind("####", 0, end)
    return found


def _in_answer_tags(text: str) -> Span | None:
    think = text.find("</think>")
    if think < 0:
        return None
    think += len("</think>")
    # Backwards over the closing tags; one is complete if an opening tag stands between it and the one before.
    close = text.rfind("</answer>", think)
    opened = len(text)
    while close >= 0:
        if opened > close:
            opened = text.rfind("<answer>", think, close)
        before = text.rfind("</answer>", think, close)
        if opened > before:
            span = Span(opened + len("<answer>"), close)
            return None if _is_blank(text[span.start : span.end]) else span
        close = before
    return None


def _in_box(text: str) -> Span | None:
    first = text.find("\\boxed")
    if first < 0:
        return None
    opened: list[tuple[int, int]] = []  # (start of \boxed or -1, end of the opening brace)
    last: tuple[int, int, int] | None = None
    for brace in _BRACES.finditer(text, first):
        kind = brace.group()
        if kind == "}" and opened:
            start, inner = opened.pop()
            if start >= 0:
                last = (start, inner, brace.start())
        elif kind == "{":
            opened.append((-1, 0))
        elif kind.startswith("\\boxed"):
            opened.append((brace.start(), brace.end()))
    if last is None or _is_blank(text[last[1] : last[2]]):
        return None
    start, inner, stop = last
    glued = _GLUED_BEFORE.search(text[max(0, start - 40) : start]) or _GLUED_AFTER.match(text[stop + 1 : stop + 13])
    return Span(inner, stop, bool(glued))


def _is_blank(span: str) -> bool:
    return not span.strip(" \t\r\n\v\f" + _INVISIBLE)
