"""Prompts to ids and generated ids to text, the same way in every sampler.

As in vLLM the ids keep every token; the text leaves out special tokens and is cut right after the stop string.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokenize each prompt as in training, with the tokenizer's own BOS alone."""
    if isinstance(prompts, str):
        raise ConfigError("prompts is one string", "give a list of strings")
    encoded = [tuple(ids) for ids in encode(prompts, tokenizer, add_bos=True)]
    if () in encoded:
        raise DataError(f"prompt {encoded.index(())} is empty", "give each prompt at least one token to continue")
    return encoded


def check_context(
    encoded: Sequence[Sequence[int]], max_new_tokens: int, context: int | None, setting: str | None = None
) -> None:
    """Refuse prompts that leave no room for ``max_new_tokens`` in the context.

    ``setting`` is the engine's setting that limits the context; None: it is the model's own.
    """
    lengths = [len(ids) for ids in encoded]
    longest = max(lengths)
    if context is None or longest + max_new_tokens <= context:
        return
    over = sum(length + max_new_tokens > context for length in lengths)
    remedy = f"shorten the prompts to less than {context} tokens"
    if longest < context:
        remedy = f"lower max_new_tokens to at most {context - longest}"
    if setting is not None:
        remedy = f"raise {setting} to at least {longest + max_new_tokens}, or {remedy}"
    raise ContextLengthError(
        f"{over} of {len(lengths)} prompts (the longest is prompt {lengths.index(longest)}, {longest} tokens) with "
        f"max_new_tokens={max_new_tokens} exceed {setting or 'the context'} of {context} tokens",
        remedy,
    )


def end_of_text_ids(tokenizer: PreTrainedTokenizerBase, config: Any, generation_config: Any) -> tuple[int, ...]:
    """Collect the ids that end a text: the tokenizer's first, then the model's.

    Raises ConfigError: the tokenizer has no end-of-text token, or the configuration names only other ones.
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise ConfigError("the tokenizer has no end-of-text token", "set tokenizer.eos_token")
    listed = [getattr(each, "eos_token_id", None) for each in (config, generation_config)]
    own, more = ([] if ids is None else ids if isinstance(ids, list | tuple) else [ids] for ids in listed)
    if own and eos_id not in own:
        raise ConfigError(
            f"the tokenizer ends a text with id {eos_id} ({tokenizer.eos_token!r}), "
            f"model.config.eos_token_id is {own if len(own) > 1 else own[0]}",
            "set tokenizer.eos_token or model.config.eos_token_id so that they agree",
        )
    return tuple(dict.fromkeys([eos_id, *own, *more]))


def decode_response(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Decode generated ids without special tokens, with the model's own spaces."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def find_completed_stop(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop: Sequence[str]
) -> tuple[str, str] | None:
    """Find the stop string that the last id completes, and the text up to it.

    Of several the first in ``stop`` counts; it may be a special token. One that was complete before the last id does
    not count: it was found earlier, or came before ``min_new_tokens`` and is then missed for good, as in vLLM.
    """

    def decode_all(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    text = decode_all(ids)
    if not any(s in text for s in stop):
        return None
    # What the last id left unchanged. Not just the length of the text before: half a UTF-8 character decodes to
    # replacement characters, which the id that completes it takes back.
    unchanged = len(os.path.commonprefix([decode_all(ids[:-1]), text]))
    for s in stop:
        start = text.find(s, max(0, unchanged - len(s) + 1))
        if start >= 0:
            before = text[:start]
            if decode_response(tokenizer, ids) != text:  # there are special tokens, which the text leaves out
                for token in tokenizer.added_tokens_decoder.values():
                    before = before.replace(token.content, "") if token.special else before
            return s, before + s
    return None


def response_text(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], eos_ids: Sequence[int], stop: Sequence[str]
) -> tuple[str, str | None]:
    """Return the text of a generation that ended by itself, and its stop string."""
    if ids[-1] in eos_ids:
        return decode_response(tokenizer, ids[:-1]), None
    found, text = find_completed_stop(tokenizer, ids, stop) or (None, decode_response(tokenizer, ids))
    return text, found
