"""From text to padded tensors: which token predicts which, and which of them the loss counts.

For the prompt ``P1 P2`` and the response ``R1 R2`` with end-of-text ``E``, padded by one ``_``::

    sequence       P1  P2  R1  R2  E   _
    input_ids      P1  P2  R1  R2  E           (all columns but the last)
    labels         P2  R1  R2  E   _           (all columns but the first)
    response_mask  .   x   x   x   .           (the label is a response token; padding never is)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cs336_sft.errors import ConfigError
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Batch, Example, Problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase as Tokenizer


def tokenize_prompt_and_output(
    prompt_strs: Sequence[str], output_strs: Sequence[str], tokenizer: Tokenizer, *, append_eos: bool = False
) -> dict[str, torch.Tensor]:
    """Tokenize prompts and outputs apart, join, pad and shift them (CS336 handout).

    Returns ``input_ids`` and ``labels`` (int64) and ``response_mask`` (bool), each ``[B, T]`` with T one less than the
    longest pair. Nothing teaches the model to stop unless ``append_eos`` ends every output with the end-of-text id.
    Raises ConfigError: lists of unequal length, a single string, no eos or pad id, or end-of-text written as text.

    >>> class Letters:  # a tokenizer: a = 1, b = 2, ...; pad and eos are both 0
    ...     pad_token_id = eos_token_id = 0
    ...     def __call__(self, texts, **kwargs):
    ...         return {"input_ids": [[ord(c) - 96 for c in text] for text in texts]}
    >>> batch = tokenize_prompt_and_output(["ab", "c"], ["cd", "d"], Letters(), append_eos=True)
    >>> batch["labels"].tolist(), batch["response_mask"].int().tolist()
    ([[2, 3, 4, 0], [4, 0, 0, 0]], [[0, 1, 1, 1], [1, 1, 0, 0]])
    """
    eos = getattr(tokenizer, "eos_token", None)
    if eos and any(output.endswith(eos) for output in output_strs):
        raise ConfigError(f"an output ends in {eos!r}, which is read as text", "leave it out and set append_eos=True")
    batch = collate(_encode_pairs(prompt_strs, output_strs, tokenizer, append_eos), padding_id(tokenizer))
    return {"input_ids": batch.input_ids, "labels": batch.labels, "response_mask": batch.response_mask}


def make_examples(
    problems: Iterable[Problem], template: PromptTemplate, tokenizer: Tokenizer, *, append_eos: bool = True
) -> list[Example]:
    """Tokenize the template's prompt and response of every problem.

    >>> from cs336_sft.prompts import get_template
    >>> class Letters:
    ...     eos_token_id = 0
    ...     def __call__(self, texts, **kwargs):
    ...         return {"input_ids": [[ord(c) for c in text] for text in texts]}
    >>> make_examples([Problem("5?", "#### 5", "5")], get_template("gsm8k"), Letters())[0].response_ids
    (32, 35, 35, 35, 35, 32, 53, 0)
    """
    problems = list(problems)
    prompts, responses = [template.prompt(p) for p in problems], [template.respond(p) for p in problems]
    return _encode_pairs(prompts, responses, tokenizer, append_eos)


def encode(texts: Sequence[str], tokenizer: Tokenizer, *, add_bos: bool = False) -> list[list[int]]:
    """Tokenize each text without padding or truncation.

    A special token written in a text (``<|endoftext|>`` in a problem) is plain text, never the special id. With
    ``add_bos``, as for prompts, each text begins with the BOS id if the tokenizer itself begins texts with it.
    """
    if not texts:  # which Hugging Face's tokenizers refuse
        return []
    ids = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    bos = getattr(tokenizer, "bos_token_id", None)
    if not add_bos or bos is None or tokenizer(["a"])["input_ids"][0][0] != bos:
        return ids
    return [[bos, *row] for row in ids]


def _encode_pairs(
    prompts: Sequence[str], outputs: Sequence[str], tokenizer: Tokenizer, append_eos: bool
) -> list[Example]:
    if isinstance(prompts, str) or isinstance(outputs, str):
        raise ConfigError("prompt_strs or output_strs is a single string", "give a list of strings")
    if len(prompts) != len(outputs):
        raise ConfigError(f"{len(prompts)} prompts but {len(outputs)} outputs", "give one output for each prompt")
    if append_eos and tokenizer.eos_token_id is None:
        raise ConfigError("append_eos=True, but the tokenizer has no eos token", "set tokenizer.eos_token")
    ending = (tokenizer.eos_token_id,) if append_eos else ()
    pairs = zip(encode(prompts, tokenizer, add_bos=True), encode(outputs, tokenizer), strict=True)
    return [Example(tuple(prompt), tuple(output) + ending) for prompt, output in pairs]


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad B examples on the right to the longest and shift them by one.

    The tensors are ``[B, T]`` with T one less than the longest example. All masks come from lengths, never from
    ``ids == pad_id``: a response token that equals the padding (end-of-text in the Qwen base models) is a target.

    >>> batch = collate([Example((7, 8), (9, 0)), Example((7,), (0,))], pad_id=0)
    >>> batch.labels.tolist(), batch.response_mask.int().tolist()
    ([[8, 9, 0], [0, 0, 0]], [[0, 1, 1], [1, 0, 0]])
    """
    import torch  # not at the top: counting tokens does not need it

    if pad_id < 0:
        raise ConfigError(f"pad_id is {pad_id}, which no embedding holds", "give the id of a token, such as 0")
    width = max((len(example) for example in examples), default=0)
    padded = torch.full((len(examples), width), pad_id, dtype=torch.long)  # [B, T + 1]
    for row, example in zip(padded, examples, strict=True):
        row[: len(example)] = torch.tensor(example.prompt_ids + example.response_ids, dtype=torch.long)

    prompt_lengths = torch.tensor([len(example.prompt_ids) for example in examples])  # [B]
    lengths = torch.tensor([len(example) for example in examples])  # [B]
    position = torch.arange(width)  # [T + 1]
    is_token = position < lengths[:, None]  # [B, T + 1]
    is_response = is_token & (position >= prompt_lengths[:, None])  # [B, T + 1]

    # Views would share memory: -100 written into the labels would change input_ids.
    return Batch(
        input_ids=padded[:, :-1].clone(),
        labels=padded[:, 1:].clone(),
        response_mask=is_response[:, 1:].clone(),  # shifted like the labels
        attention_mask=is_token[:, :-1].clone(),
    )


def count_targets(examples: Iterable[Example]) -> int:
    """Count the tokens of the loss, ``collate(...).response_mask.sum()``.

    All response tokens count, except the first one after an empty prompt: nothing predicts it.
    """
    return sum(len(example.response_ids) if example.prompt_ids else max(len(example) - 1, 0) for example in examples)


def padding_id(tokenizer: Tokenizer, vocab_size: int | None = None) -> int:
    """Return the tokenizer's pad id, or its eos id where it has no pad.

    Raises ConfigError: it has neither, or the id is not below ``vocab_size``, the rows of the model's embedding.
    """
    pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id  # 0 is a valid id
    if pad_id is None:
        raise ConfigError("the tokenizer has neither a pad nor an eos token", "set tokenizer.pad_token")
    if vocab_size is not None and pad_id >= vocab_size:
        raise ConfigError(f"the pad id {pad_id} is beyond the model's {vocab_size} embeddings", "set another pad_token")
    return pad_id
