"""What every sampler looks at before it generates: prompts, context length, and which token ends a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cs336_sft.errors import ConfigError, ContextLengthError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[tuple[int, ...]]:
    """The ids of each prompt, without special tokens, as in training.

    Raises:
        ConfigError: one string in place of a list.
        DataError: an empty prompt.
    """
    if isinstance(prompts, str):
        raise ConfigError("prompts is one string", "give a list of strings")
    encoded = []
    for index, prompt in enumerate(prompts):
        ids = tuple(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if not ids:
            raise DataError(f"prompt {index} is empty", "give each prompt at least one token to continue")
        encoded.append(ids)
    return encoded


def check_context(encoded: Sequence[Sequence[int]], max_new_tokens: int, context: int | None) -> None:
    """Every prompt must have room for the whole limit in the model's context.

    Raises:
        ContextLengthError: the longest prompt has not.

    >>> check_context([(5, 6), (7,)], max_new_tokens=8, context=9)
    Traceback (most recent call last):
        ...
    cs336_sft.errors.ContextLengthError: prompt 0 has 2 tokens; with max_new_tokens=8 that makes 10, and the model holds 9. Remedy: lower max_new_tokens to at most 7.
    """  # noqa: E501
    longest = max(range(len(encoded)), key=lambda index: len(encoded[index]))
    length = len(encoded[longest])
    if context is not None and length + max_new_tokens > context:
        raise ContextLengthError(
            f"prompt {longest} has {length} tokens; with max_new_tokens={max_new_tokens} that makes "
            f"{length + max_new_tokens}, and the model holds {context}",
            f"lower max_new_tokens to at most {context - length}"
            if length < context
            else f"shorten the prompt to less than {context} tokens",
        )


def check_end_of_text(tokenizer: PreTrainedTokenizerBase, listed: int | Sequence[int] | None) -> int:
    """The id that ends a text: the tokenizer's, which fine-tuning appends.

    Args:
        listed: ``eos_token_id`` of the model's configuration; None where it has none.

    Raises:
        ConfigError: the tokenizer has no end-of-text token, or the configuration names other ones.
    """
    eos_id = tokenizer.eos_token_id
    if eos_id is None:
        raise ConfigError("the tokenizer has no end-of-text token", "set tokenizer.eos_token")
    if listed is not None and eos_id not in (listed if isinstance(listed, list | tuple) else [listed]):
        raise ConfigError(
            f"the tokenizer ends a text with id {eos_id} ({tokenizer.eos_token!r}), "
            f"model.config.eos_token_id is {listed}",
            "set tokenizer.eos_token or model.config.eos_token_id so that they agree",
        )
    return eos_id
