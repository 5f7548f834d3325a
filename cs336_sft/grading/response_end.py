"""Where a response ends: at the cap, at an end-of-text token, or where another problem or turn starts.

A base model seldom stops after its answer: it invents the next question and answers that too. Only what stands
before such a start is graded. These start something new (upper and lower case alike):

- at the beginning of a line, after markdown dressing: ``Question:``, ``Q:``, ``Problem:``, ``Exercise:``, numbered
  (``Problem 2:``) or qualified (``Next question:``), the same in Chinese (``问题：``), and the turns ``User:``,
  ``Human:``, ``Assistant:``, ``Instruction:``; ``user``, ``human`` or ``assistant`` alone on a line (what a decoder
  leaves of a chat token);
- as a heading without a colon: ``### Question``, ``**Problem 2**``, ``Question 2`` alone on its line. A heading
  *about* the problem (``### Understanding the problem``) is none of these;
- announced at the beginning of a line: ``Here is another problem``, ``Now let's try a new question``;
- within a line ``Question:``, ``Q:``, ``Problem:``, ``User:``, ``Human:``, if what stands before ends a
  sentence or is a number (``#### 18 Question:``);
- chat and end-of-text tokens anywhere: ``<|…|>``, ``</s>``, ``<eos>``, ``<end_of_turn>``, ``[INST]`` and kin.

At the very beginning of a response a question marker is the problem restated, not another one, and the header of
the model's own turn (``<|im_start|>assistant``, ``Assistant:``, ``<s>``) is no end; both are passed over.
"""

from __future__ import annotations

import re

READ_LIMIT = 100_000
"""Characters of a response that are read (about 30,000 tokens); the rest is ignored, with the line the limit cuts."""

# Every marker in ASCII contains one of these in lower case, or is a "Q" before a colon.
_HINTS = (
    "question",
    "problem",
    "exercise",
    "instruction",
    "user",
    "human",
    "assistant",
    "<|",
    "s>",
    "_turn>",
    "pad>",
) + ("inst]", "eos]", "pad]", "im_", "eot>", "end>")
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
    """False if ``text`` surely holds no marker: a quick test for the common case.

    >>> may_need_cut("9 * 2 = <<9*2=18>>18\\n#### 18"), may_need_cut("#### 18\\n**Q:** And now?")
    (False, True)
    """
    if not text.isascii():
        return True  # case folding beyond ASCII has surprises; such texts are rare
    lowered = text.lower()
    for hint in _HINTS:
        if hint in lowered:
            return True
    return ":" in lowered and _SHORT_HINT.search(lowered) is not None


def limited(text: str) -> str:
    """The part of ``text`` that is read: all of it up to ``READ_LIMIT``, else whole lines (or words) below it."""
    if len(text) <= READ_LIMIT:
        return text
    end = max(text.rfind("\n", 0, READ_LIMIT), text.rfind("\r", 0, READ_LIMIT))
    if end < 0:
        end = max(text.rfind(" ", 0, READ_LIMIT), 0)
    return text[:end]


def cut_position(text: str) -> int:
    """Index at which the graded part of ``text`` ends.

    >>> text = "9 * 2 = 18\\n#### 18\\n\\nQuestion: Tom has 5 apples."
    >>> text[: cut_position(text)].rstrip()
    '9 * 2 = 18\\n#### 18'
    >>> cut_position("To answer the question: we add.")
    31
    """
    text = limited(text)
    return first_marker(text) if may_need_cut(text) else len(text)


def first_marker(text: str) -> int:
    """``cut_position`` without its quick test and its limit (a test proves that the quick test misses no marker).

    >>> first_marker("18</s>")
    2
    """
    own = _OWN_HEADER.match(text)
    start = own.end() if own else 0
    first_word = _WORD.search(text, start)
    if first_word is None:
        end = _TOKEN.search(text, start)
        return end.start() if end else len(text)
    end = len(text)
    token = _TOKEN.search(text, start)
    if token:
        end = token.start()
    for found in _LINE_START.finditer(text, start, end):
        restated = not found["turn"] and found.end("lead") <= first_word.start()
        if not restated:
            end = found.start()
            break
        start = found.end()
    in_line = _IN_LINE.search(text, start, end)
    return in_line.end("before") if in_line else end
