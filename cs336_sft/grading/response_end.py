"""Decides where a response ends: at the length limit, at a special token, or where another problem or turn starts.

A base model seldom stops after its answer: it writes the next question and answers that too. docs/grading-rules.md
lists what ends the graded part.
"""

from __future__ import annotations

import re

# Characters of a response that are read (about 30,000 tokens); the rest is ignored, with the line the limit cuts.
READ_LIMIT = 100_000

# Every marker in ASCII contains one of these words in lower case, or looks like a token, or is a "Q" before a colon.
_HINTS = ("question", "problem", "exercise", "instruction", "user", "human", "assistant")
_TOKEN_HINT = re.compile(r"[<\[]/?[|sebpi]")
_SHORT_HINT = re.compile(r"q[^a-z]{0,24}:")

_QUALIFIER = r"(?:(?:next|new|another|follow[- ]up|similar|practice|additional|bonus|extra|second|sample)\s+)?"
_QUESTION = r"(?:question|problem|exercise|q)"
_NUMBER = r"(?:\s*(?:#|no\.?|number)?\s*\d{1,4}[a-z]?)"
_DRESS = r"[*_`\]\s]{0,6}"
_ANNOUNCED = (
    r"(?:(?:okay|ok|now|next|great)[,!.]?[ ])?"
    r"(?:here(?:'s|[ ]is)|let(?:'s|[ ]us)(?:[ ]now)?[ ](?:try|do|solve|look[ ]at|move[ ]on[ ]to|consider)|try|consider)"
    r"[ ](?:another|a[ ]new|the[ ]next|a[ ]similar|one[ ]more)[ ](?:\w+[ ])?(?:problem|question|exercise)(?![\w-])"
)
_LINE_START = re.compile(
    # Up to twelve characters of markdown, then a marker with a colon, a heading, or a numbered line of its own.
    r"^(?P<lead>[ \t>#*_`\-•(\[]{0,12})(?:"
    rf"(?P<ask>{_QUALIFIER}{_QUESTION}{_NUMBER}?{_DRESS}[:：]|(?:问题|问|题目)\s*\d{{0,4}}\s*[:：])"
    rf"|(?P<head>{_QUALIFIER}(?:question|problem|exercise){_NUMBER}?[.)]?[*_`\]# \t]{{0,8}})(?=$|[\r\n])"
    rf"|(?P<numbered>(?:question|problem|exercise){_NUMBER}[.)][ \t*]+)(?=[A-Z])"
    rf"|(?P<announced>{_ANNOUNCED})"
    rf"|(?P<turn>(?:user|human|assistant|instructions?|用户){_NUMBER}?{_DRESS}[:：]"
    r"|(?:user|human|assistant)[ \t]*(?=$|[\r\n])))",
    re.IGNORECASE | re.MULTILINE,
)
_IN_LINE = re.compile(
    r"(?P<before>[.!?)\]}*\"'%$>\d])[ \t]*[*_#]{0,6}[ \t]*(?:(?:Next|New|Another|Bonus)\s(?:question|problem)"
    r"|Question|QUESTION|Problem|PROBLEM|Q|User|USER|Human|HUMAN)(?:[ \t]*\d{1,4})?[*_]{0,3}:"
)
_TOKEN = re.compile(
    r"<[|｜][^|｜<>\n]{1,40}[|｜]>|</s>|<s>|</?(?:eos|bos|eot|end|pad|EOS|BOS|EOT|END|PAD|im_end|im_start)>"
    r"|<(?:start|end)_of_turn>|\[/?INST\]|\[(?:EOS|PAD)\]",
)
# The header of the model's own turn at the beginning of a response.
_OWN_HEADER = re.compile(
    r"\s*(?:(?:<s>|<bos>|\[/INST\]|<\|begin_of_text\|>|<[|｜](?:begin▁of▁sentence|Assistant|assistant)[|｜]>"
    r"|<\|im_start\|>\s*assistant|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>"
    r"|<start_of_turn>\s*model|[*_]{0,2}Assistant[*_]{0,2}:[*_]{0,2}|assistant[ \t]*\n)\s*){0,4}"
)
_WORD = re.compile(r"[^\W_]")


def may_need_cut(text: str) -> bool:
    """Return False if ``text`` has no marker, by a quick test."""
    if not text.isascii():
        return True  # case folding beyond ASCII has surprises; such texts are rare
    lowered = text.lower()
    if any(hint in lowered for hint in _HINTS):
        return True
    return bool(_TOKEN_HINT.search(lowered) or (":" in lowered and _SHORT_HINT.search(lowered)))


def cut_position(text: str) -> int:
    """Return the index at which the graded part of ``text`` ends.

    >>> text = "#### 18\\n\\nQuestion: Tom has 5 apples."
    >>> text[: cut_position(text)].rstrip()
    '#### 18'
    """
    if len(text) > READ_LIMIT:
        # Whole lines, or else whole words.
        end = max(text.rfind("\n", 0, READ_LIMIT), text.rfind("\r", 0, READ_LIMIT))
        text = text[: end if end >= 0 else max(text.rfind(" ", 0, READ_LIMIT), 0)]
    return first_marker(text) if may_need_cut(text) else len(text)


def first_marker(text: str) -> int:
    """Find the first marker, without quick test and length limit."""
    own = _OWN_HEADER.match(text)
    start = own.end() if own else 0
    first_word, token = _WORD.search(text, start), _TOKEN.search(text, start)
    end = token.start() if token else len(text)
    if first_word is None:
        return end
    for found in _LINE_START.finditer(text, start, end):
        restated = not found["turn"] and found.end("lead") <= first_word.start()
        if not restated:
            end = found.start()
            break
        start = found.end()
    in_line = _IN_LINE.search(text, start, end)
    return in_line.end("before") if in_line else end
