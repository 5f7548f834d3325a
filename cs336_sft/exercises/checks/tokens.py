"""What ex02 and ex09 share: readable token sequences, slips of the shift, the mask and the padding, and their view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from cs336_sft.exercises.compare import Misshapen, difference, same
from cs336_sft.exercises.report import Line, line
from cs336_sft.exercises.sandbox.objects import TokenizerSpec
from cs336_sft.exercises.sandbox.perform import Case, Observation
from cs336_sft.exercises.views import mask_lines

WORDS = ("?", "2", "+", "3", "=", "5", "<pad>", "Q", ":", "A", "42", "4", "<eos>", "so", ".", "<bos>", "1")
PLAIN = TokenizerSpec(WORDS)
PAD_IS_EOS = TokenizerSpec(WORDS, pad="<eos>")
WITH_BOS = TokenizerSpec(WORDS, bos="<bos>")
KEYS = ("input_ids", "labels", "response_mask")

Pairs = list[tuple[list[int], list[int]]]
Build = Callable[[Pairs, Any], dict[str, torch.Tensor]]


def encode_pairs(prompts: Sequence[str], outputs: Sequence[str], tokenizer: Any, **settings: Any) -> Pairs:
    """Prompt and output ids, tokenized apart."""
    settings = {"add_special_tokens": False} | settings
    return [
        (tokenizer(p, **settings)["input_ids"], tokenizer(o, **settings)["input_ids"])
        for p, o in zip(prompts, outputs, strict=True)
    ]


def build(
    pairs: Pairs,
    pad: int,
    *,
    mask: Callable[[int, int, int, list[int]], list[bool]] | None = None,
    left: bool = False,
    keep_last: bool = False,
    cut_first: bool = False,
) -> dict[str, torch.Tensor]:
    """The right batch, or one with a slip.

    Args:
        mask: from prompt length, output length, row width and the padded row to the mask over the *whole* row.
        left: pad on the left.
        keep_last: keep all T columns instead of T - 1.
        cut_first: cut the last token of each row before padding.
    """
    width = max((len(p) + len(o) for p, o in pairs), default=1)
    ids, labels, masks = [], [], []
    for p, o in pairs:
        row = p + o
        fill = [pad] * (width - len(row))
        padded = fill + row if left else row + fill
        whole = (mask or right_mask)(len(p), len(o), width, padded)
        if left and mask is None:
            whole = [False] * (len(fill) + len(p)) + [True] * len(o)
        if keep_last:
            ids.append(padded)
            labels.append(padded[1:] + [pad])
            masks.append(whole[1:] + [False])
            continue
        ids.append((row[:-1] + [pad] * (width - 1 - len(row[:-1]))) if cut_first else padded[:-1])
        labels.append(padded[1:])
        masks.append(whole[1:])
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "response_mask": torch.tensor(masks),
    }


def right_mask(p: int, o: int, width: int, row: list[int]) -> list[bool]:
    """True on the output's tokens."""
    return [p <= i < p + o for i in range(width)]


def batch_view(case: Case, seen: Observation) -> Any:
    """The three tensors, if they are there, with the mask as booleans."""
    value = seen.value
    if not isinstance(value, dict):
        return Misshapen("returns something else than a dict with input_ids, labels and response_mask")
    missing = [key for key in KEYS if key not in value]
    if missing:
        return Misshapen(f"the dict has no {missing[0]!r}: the contract asks for {', '.join(KEYS)}")
    wrong = [key for key in KEYS if not isinstance(value[key], torch.Tensor)]
    if wrong:
        return Misshapen(f"{wrong[0]} is no tensor")
    mask = value["response_mask"]
    if not same(mask, mask.bool()):
        return Misshapen("response_mask has values other than 0 and 1")
    return {"input_ids": value["input_ids"], "labels": value["labels"], "response_mask": mask.bool()}


def batch_lines(case: Case, expected: Any, yours: Any) -> list[Line]:
    """Input ids and labels that differ as numbers, a mask that differs under its tokens."""
    prompts, outputs, tokenizer = case.args[:3]
    words = tokenizer.words
    lines = [line(f"prompt {p!r}, output {o!r}") for p, o in zip(prompts, outputs, strict=True)]
    for key in KEYS:
        if expected[key].shape != yours[key].shape:
            shapes = f"expected {list(expected[key].shape)}, yours {list(yours[key].shape)}"
            return [*lines, line(f"{key} has another shape: {shapes}", "bad")]
    for key in ("input_ids", "labels"):
        for row in range(expected[key].shape[0]):
            if not same(expected[key][row], yours[key][row]):
                lines += [
                    line(f"{key}, row {row}:"),
                    line(f"expected  {_words(words, expected[key][row])}", "good"),
                    line(f"yours     {_words(words, yours[key][row])}", "bad"),
                ]
                return lines
    for row in range(expected["labels"].shape[0]):
        if not same(expected["response_mask"][row], yours["response_mask"][row]):
            tokens = [_word(words, i) for i in expected["labels"][row].tolist()]
            lines.append(line(f"response_mask, row {row}:"))
            masks = expected["response_mask"][row].tolist(), yours["response_mask"][row].tolist()
            return lines + mask_lines(tokens, *masks)
    return lines + difference(expected, yours)


def _word(words: Sequence[str], token: int) -> str:
    return words[token] if 0 <= token < len(words) else f"id {token}"


def _words(words: Sequence[str], ids: torch.Tensor) -> str:
    return " ".join(_word(words, int(token)) for token in ids.tolist())
