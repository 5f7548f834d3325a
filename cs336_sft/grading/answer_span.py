"""Where the answer stands: the structure that each style demands, and the span inside it.

``gsm8k``: the last ``####`` with a letter, digit or number sign after it on its line; its own line only.
``r1_zero``: the last complete ``<answer>…</answer>`` after the first ``</think>``.
``question_only``: the last complete ``\\boxed{…}``, the outermost one where boxes are nested.

The tags are case-sensitive, as the prompts give them. What is cut off by ``cut.cut_position`` doesn't exist here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cs336_sft.grading.number import PLAIN

Style = Literal["gsm8k", "r1_zero", "question_only"]
STYLES: tuple[Style, ...] = ("gsm8k", "r1_zero", "question_only")

_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"
_LINE_END = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_BRACES = re.compile(r"\\boxed[ \t\n]{0,8}\{|\\\\|\\[{}]|[{}]")


# The shape of almost every answer: a plain integer after the last marker. Where one of these matches at the marker,
# ``find_span`` and ``read_number`` come to the same value (a test proves it).
_PLAIN_LINE = re.compile(PLAIN + r"(?:\n|\Z)")


def plain_hash_value(text: str) -> int | None:
    """The value of a plain ``#### 1,080`` line that is the last one, else None: a shortcut past ``find_span``.

    >>> plain_hash_value("9 * 120 = 1080\\n#### 1,080")
    1080
    >>> plain_hash_value("#### 18 apples") is None
    True
    """
    mark = text.rfind("####")
    if mark < 0:
        return None
    plain = _PLAIN_LINE.match(text, mark + 4)
    return int(plain[1].replace(",", "")) if plain else None


@dataclass(frozen=True)
class Span:
    """A piece of the response: ``text[start:end]``; ``glued`` if what stands around it belongs to its number.

    >>> Span(2, 4).glued
    False
    """

    start: int
    end: int
    glued: bool = False


def find_span(text: str, style: Style) -> Span | None:
    """The answer's span in ``text`` (already cut), or None if the structure is missing, empty or cut off.

    >>> text = "So it is \\\\boxed{18}."
    >>> span = find_span(text, "question_only")
    >>> text[span.start : span.end]
    '18'
    """
    if style == "gsm8k":
        return _after_hashes(text)
    if style == "r1_zero":
        return _in_answer_tags(text)
    return _in_box(text)


def _after_hashes(text: str) -> Span | None:
    end = len(text)
    mark = text.rfind("####")
    while mark >= 0:
        # Between this marker and the next one; a quick look first, for there may be thousands of empty ones.
        after = text[mark + 4 : end]
        if after.strip(" \t\r\n#"):
            line = _LINE_END.split(after, 1)[0]
            if any(c.isalnum() or c in "√∞" for c in line):
                return Span(mark + 4, mark + 4 + len(line))
        end = mark
        mark = text.rfind("####", 0, end)
    return None


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
        if kind == "}":
            if opened:
                start, inner = opened.pop()
                if start >= 0:
                    last = (start, inner, brace.start())
        elif kind == "{":
            opened.append((-1, 0))
        elif kind[-1] == "{" and len(kind) > 2:
            opened.append((brace.start(), brace.end()))
    if last is None:
        return None
    start, inner, stop = last
    if _is_blank(text[inner:stop]):
        return None
    return Span(inner, stop, glued=_belongs_to_number(text[max(0, start - 40) : start], text[stop + 1 : stop + 13]))


def _is_blank(span: str) -> bool:
    return not span.strip(" \t\r\n\v\f" + _INVISIBLE)


_GLUED_BEFORE = re.compile(
    r"(?:(?:\d[.,]?|[/^])\$?|[-−–]\$?|[=(:][ \t]*[-−–][ \t]*\$?|[+×÷±√][ \t]*\$?|\\(?:times|cdot|div|pm|sqrt)[ \t]*"
    r"|\\boxed[ \t]*\{[^{}]*\}[ \t]*)\Z"
)
_GLUED_AFTER = re.compile(
    r"\$?(?:[\d^!]|[.,]\d|[ \t]*[-−–/*+×÷][ \t]*[\d\\$]|[ \t]*\\(?:times|cdot|div|pm|frac|boxed)\b)"
)


_HARMLESS_BEFORE = ("", "\n")
_HARMLESS_AFTER = ("", "\n")


def _belongs_to_number(before: str, after: str) -> bool:
    """A sign, digit or operator outside the box makes what stands inside only a part of the number."""
    if before[-1:] in _HARMLESS_BEFORE and after[:1] in _HARMLESS_AFTER:
        return False
    return bool(_GLUED_BEFORE.search(before) or _GLUED_AFTER.match(after))
