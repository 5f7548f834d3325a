"""From generated ids to the text that is graded: decoding and stop strings, the same way everywhere.

Conventions are vLLM's: the ids keep every generated token; the text leaves out the end-of-text token and is cut
before or right after the stop string. So ``decode(token_ids)`` may differ from ``text``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of generated ids, special tokens left out, spaces as the model wrote them.

    >>> class Bytes:
    ...     def decode(self, ids, **settings):
    ...         return bytes(ids).decode(errors="replace")
    >>> decode_response(Bytes(), (35, 35))
    '##'
    """
    return tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


@dataclass(frozen=True)
class StopMatch:
    """A stop string found in a text: ``text[start:end] == stop``."""

    stop: str
    start: int
    end: int

    def cut(self, text: str, include: bool) -> str:
        """The text up to the stop string, with it or without it."""
        return text[: self.end if include else self.start]


def find_completed_stop(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop: Sequence[str]
) -> StopMatch | None:
    """The stop string that the last id completes, or None. Several at once: the first in the order of ``stop``.

    A stop string that was complete before the last id does not count: it was found earlier, or came before
    ``min_new_tokens`` and is then missed for good, as in vLLM.

    >>> class Bytes:
    ...     def decode(self, ids, **settings):
    ...         return bytes(ids).decode(errors="replace")
    >>> find_completed_stop(Bytes(), b"so ##", ["##"])
    StopMatch(stop='##', start=3, end=5)
    >>> find_completed_stop(Bytes(), b"so ##!", ["##"]) is None
    True
    """
    text = decode_response(tokenizer, ids)
    if not any(s in text for s in stop):
        return None
    # What the last id left unchanged. Not just the length of the text before: half a UTF-8 character decodes to
    # replacement characters, which the id that completes it takes back.
    unchanged = len(os.path.commonprefix([decode_response(tokenizer, ids[:-1]), text]))
    for s in stop:
        start = text.find(s, max(0, unchanged - len(s) + 1))
        if start >= 0:
            return StopMatch(s, start, start + len(s))
    return None
