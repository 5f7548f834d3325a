"""From text to padded tensors: which token predicts which, and which of them the loss counts.

For the prompt ``P1 P2`` and the response ``R1 R2`` with end-of-text ``E``, padded by one ``_``::

    sequence       P1  P2  R1  R2  E   _
    input_ids      P1  P2  R1  R2  E           (all columns but the last)
    labels         P2  R1  R2  E   _           (all columns but the first)
    response_mask  .   x   x   x   .           (the label is a response token; padding never is)

Ids and mask come from one function, ``_pad``, which works from lengths alone. So they can't drift apart, and a
response token that happens to equal the padding id (end-of-text in the Qwen base models) is still supervised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

from cs336_sft.errors import ConfigError
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Batch, Example, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenize_prompt_and_output(
    prompt_strs: Sequence[str],
    output_strs: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    append_eos: bool = False,
) -> dict[str, torch.Tensor]:
    """Tokenize prompts and outputs apart, join each pair, pad on the right and shift by one (CS336 handout).

    No special token is added, so by default nothing teaches the model to stop: for fine-tuning pass
    ``append_eos=True``.

    Args:
        prompt_strs: B prompts. After an empty one the first response token is not a target: nothing predicts it.
        output_strs: B outputs; an empty one has no targets (or end-of-text alone, with ``append_eos``).
        tokenizer: a Hugging Face tokenizer; padding is its pad id, or its eos id where it has no pad.
        append_eos: end every output with the tokenizer's end-of-text id, which then is a target.

    Returns:
        Three tensors of shape ``[B, T]`` with ``T = max(prompt length + output length) - 1`` (at least 0):
        ``input_ids`` (int64), the padded sequence without its last column; ``labels`` (int64), without its first;
        ``response_mask`` (bool), True where the label is a response token. A sequence shorter than the longest
        keeps its last token in ``input_ids``, as in the handout; its label there is padding, and masked.

    Raises:
        ConfigError: the two lists differ in length, or a string stands where a list should, or the tokenizer has
            no end-of-text (or neither that nor a padding id) where one is needed.

    >>> class Letters:  # stands in for a tokenizer: a = 1, b = 2, ...; pad and eos are both 0
    ...     pad_token_id = eos_token_id = 0
    ...     def __call__(self, texts, **kwargs):
    ...         return {"input_ids": [[ord(c) - 96 for c in text] for text in texts]}
    >>> batch = tokenize_prompt_and_output(["ab", "c"], ["cd", "d"], Letters(), append_eos=True)
    >>> batch["input_ids"].tolist()
    [[1, 2, 3, 4], [3, 4, 0, 0]]
    >>> batch["labels"].tolist()
    [[2, 3, 4, 0], [4, 0, 0, 0]]
    >>> batch["response_mask"].int().tolist()
    [[0, 1, 1, 1], [1, 1, 0, 0]]
    """
    batch = _pad(_encode_pairs(prompt_strs, output_strs, tokenizer, append_eos), padding_id(tokenizer))
    return {"input_ids": batch.input_ids, "labels": batch.labels, "response_mask": batch.response_mask}


def make_examples(
    problems: Iterable[Problem],
    template: PromptTemplate,
    tokenizer: PreTrainedTokenizerBase,
    *,
    append_eos: bool = True,
) -> list[Example]:
    """One training example a problem: ``template.prompt`` as prompt, ``template.respond`` as response.

    Args:
        problems: what to learn from.
        template: makes the two texts.
        tokenizer: a Hugging Face tokenizer; no special token is added but end-of-text.
        append_eos: end every response with end-of-text. Without it the model is never shown where to stop.

    Raises:
        ConfigError: ``append_eos`` with a tokenizer that has no end-of-text.

    >>> from cs336_sft.prompts import get_template
    >>> class Letters:
    ...     pad_token_id = eos_token_id = 0
    ...     def __call__(self, texts, **kwargs):
    ...         return {"input_ids": [[ord(c) for c in text] for text in texts]}
    >>> [example] = make_examples([Problem("5?", "#### 5", "5")], get_template("gsm8k"), Letters())
    >>> example.response_ids  # " #### 5", then end-of-text
    (32, 35, 35, 35, 35, 32, 53, 0)
    """
    problems = list(problems)
    prompts = [template.prompt(problem) for problem in problems]
    responses = [template.respond(problem) for problem in problems]
    return _encode_pairs(prompts, responses, tokenizer, append_eos)


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad examples on the right to the longest and shift them by one: a batch for the loss.

    Args:
        examples: B examples.
        pad_id: fills the padding; its value never matters to the masks (see ``padding_id``).

    Returns:
        A ``Batch`` of ``[B, T]`` tensors with ``T = max(len(example)) - 1`` (at least 0), equal to what
        ``tokenize_prompt_and_output`` gives for the same ids, and with an attention mask.

    >>> batch = collate([Example((7, 8), (9, 0)), Example((7,), (0,))], pad_id=0)
    >>> batch.labels.tolist()
    [[8, 9, 0], [0, 0, 0]]
    >>> batch.response_mask.int().tolist()
    [[0, 1, 1], [1, 0, 0]]
    >>> batch.attention_mask.int().tolist()
    [[1, 1, 1], [1, 1, 0]]
    """
    return _pad(examples, pad_id)


def count_targets(examples: Iterable[Example]) -> int:
    """How many tokens the loss counts: what ``collate(examples, pad_id).response_mask.sum()`` will be.

    Every response token is one, save the first of a sequence with an empty prompt, which nothing predicts.

    >>> count_targets([Example((7, 8), (9, 0)), Example((), (9, 0))])
    3
    """
    return sum(len(example.response_ids) if example.prompt_ids else max(len(example) - 1, 0) for example in examples)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's pad id, or its eos id where it has no pad.

    Raises:
        ConfigError: it has neither.

    >>> from types import SimpleNamespace
    >>> padding_id(SimpleNamespace(pad_token_id=None, eos_token_id=2))
    2
    """
    # `is None`, not truth: 0 is an id like any other.
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if pad_id is None:
        raise ConfigError("the tokenizer has neither a pad nor an eos token", "set tokenizer.pad_token")
    return pad_id


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The ids of each text: no special tokens added, nothing padded, nothing cut off.

    >>> encode([], tokenizer=None)
    []
    """
    if not texts:  # on which Hugging Face's tokenizers fail
        return []
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]


def _encode_pairs(
    prompts: Sequence[str], outputs: Sequence[str], tokenizer: PreTrainedTokenizerBase, append_eos: bool
) -> list[Example]:
    if isinstance(prompts, str) or isinstance(outputs, str):
        raise ConfigError("prompt_strs or output_strs is a single string", "give a list of strings")
    if len(prompts) != len(outputs):
        raise ConfigError(f"{len(prompts)} prompts but {len(outputs)} outputs", "give one output for each prompt")
    ending: tuple[int, ...] = ()
    if append_eos:
        if tokenizer.eos_token_id is None:
            raise ConfigError("append_eos=True, but the tokenizer has no eos token", "set tokenizer.eos_token")
        ending = (tokenizer.eos_token_id,)
    pairs = zip(encode(prompts, tokenizer), encode(outputs, tokenizer), strict=True)
    return [Example(tuple(prompt), tuple(output) + ending) for prompt, output in pairs]


def _pad(examples: Sequence[Example], pad_id: int) -> Batch:
    """The one place where ids and masks are made. All masks come from lengths, never from ``ids == pad_id``."""
    width = max((len(example) for example in examples), default=0)
    padded = torch.full((len(examples), width), pad_id, dtype=torch.long)  # [B, T + 1]
    for row, example in zip(padded, examples, strict=True):
        row[: len(example)] = torch.tensor(example.prompt_ids + example.response_ids, dtype=torch.long)

    prompt_lengths = torch.tensor([len(example.prompt_ids) for example in examples], dtype=torch.long)  # [B]
    lengths = torch.tensor([len(example) for example in examples], dtype=torch.long)  # [B]
    position = torch.arange(width)  # [T + 1]
    is_token = position < lengths[:, None]  # [B, T + 1]
    is_response = is_token & (position >= prompt_lengths[:, None])  # [B, T + 1]

    def copy(view: torch.Tensor) -> torch.Tensor:
        # Views would share memory: whoever wrote -100 into the labels would write it into input_ids too.
        return view.clone(memory_format=torch.contiguous_format)

    return Batch(
        input_ids=copy(padded[:, :-1]),
        labels=copy(padded[:, 1:]),
        response_mask=copy(is_response[:, 1:]),  # shifted as the labels are
        attention_mask=copy(is_token[:, :-1]),
    )
