"""What ex02 and ex09 share: readable token sequences, slips of the shift, the mask and the padding, and their view."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from cs336_sft.exercises.checks.objects import word_tokenizer
from cs336_sft.exercises.compare import Misshapen, difference, entries, same
from cs336_sft.exercises.registry import read_asset
from cs336_sft.exercises.report import Line, line, mask_lines
from cs336_sft.exercises.sandbox.perform import Case, Observation

WORDS = ("?", "2", "+", "3", "=", "5", "<pad>", "Q", ":", "A", "42", "4", "<eos>", "so", ".", "<bos>", "1")
PLAIN = word_tokenizer(WORDS)
PAD_IS_EOS = word_tokenizer(WORDS, pad="<eos>")
WITH_BOS = word_tokenizer(WORDS, bos="<bos>")
# Blanks are tokens, the ids are others, the model reads few tokens; padding is token 0, below end-of-text is.
BLANKS = word_tokenizer((*WORDS[6:], *WORDS[:6], " ", "\n"), bos="<bos>", blanks=True, limit=6)
BLANKS_PAD_IS_EOS = word_tokenizer((*sorted(WORDS, key="<eos>".__ne__), " ", "\n"), pad="<eos>", blanks=True, limit=4)
KEYS = ("input_ids", "labels", "response_mask")

Pairs = list[tuple[list[int], list[int]]]


def text_cases(exercise: str) -> list[Case]:
    """Read the cases made by hand."""

    def case(prompts: Any, outputs: Any, tokenizer: str, settings: Any = None, **texts: str) -> Case:
        return Case((prompts, outputs, globals()[tokenizer]), settings or {}, **texts)

    return [case(**row) for row in read_asset("cases")[exercise]]


def random_cases(seed: int, **settings: Any) -> list[Case]:
    """Vary rows, lengths, blanks and special tokens, with one text twice."""
    draw = random.Random(seed)

    def text() -> str:
        words = draw.choices(WORDS[1:], k=draw.choice((0, 1, 2, 3, 9)))
        return draw.choice(("", " ", "\n")) + "".join(word + draw.choice(("", " ")) for word in words)

    cases = []
    for count in (1, 2, 3, 4):
        prompts, outputs = [text() for _ in range(count)], [text() for _ in range(count - 1)] + [" A :  5 \n"]
        pairs = [*prompts, prompts[0]], [*outputs, outputs[0]]
        for tokenizer in (BLANKS, PLAIN, BLANKS_PAD_IS_EOS):
            cases.append(Case((*pairs, tokenizer), settings, label=f"{count + 1} random pairs"))
    return cases


def encode_pairs(prompts: Sequence[str], outputs: Sequence[str], tokenizer: Any, **settings: Any) -> Pairs:
    """Prompt and output ids, tokenized apart."""
    settings = {"add_special_tokens": False} | settings
    return [
        (tokenizer(p, **settings)["input_ids"], tokenizer(o, **settings)["input_ids"])
        for p, o in zip(prompts, outputs, strict=True)
    ]


def right_mask(p: int, o: int, width: int) -> list[bool]:
    """Mark the output's tokens."""
    return [p <= i < p + o for i in range(width)]


def build(
    pairs: Pairs,
    pad: int,
    *,
    mask: Callable[[int, int, int], list[bool]] = right_mask,
    left: bool = False,
    keep_last: bool = False,
    cut_first: bool = False,
) -> dict[str, torch.Tensor]:
    """Build the right batch, or one with a slip.

    Args:
        mask: from the lengths of prompt, output and row to the mask over the *whole* row.
        left: pad on the left.
        keep_last: keep all T columns instead of T - 1.
        cut_first: cut the last token of each row before padding.
    """
    width = max((len(p) + len(o) for p, o in pairs), default=1) + keep_last
    ids, labels, masks = [], [], []
    for p, o in pairs:
        row, fill = p + o, [pad] * (width - len(p) - len(o))
        padded = fill + row if left else row + fill
        ids.append(row[:-1] + fill if cut_first else padded[:-1])
        labels.append(padded[1:])
        masks.append(mask(len(p) + (len(fill) if left else 0), len(o), width)[1:])
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels), "response_mask": torch.tensor(masks)}


def batch_view(case: Case, seen: Observation) -> Any:
    """View the three tensors, if they are there, with the mask as booleans."""
    batch = entries(seen.value, KEYS, torch.Tensor)
    if isinstance(batch, Misshapen):
        return batch
    if {batch[key].dtype for key in KEYS[:2]} != {torch.int64}:
        return Misshapen("input_ids and labels are not int64, which is torch.long: an embedding looks ids up by it")
    mask = batch["response_mask"]
    if not same(mask, mask.bool()):
        return Misshapen("response_mask has values other than 0 and 1")
    return batch | {"response_mask": mask.bool()}


def batch_lines(case: Case, expected: Any, yours: Any) -> list[Line]:
    """Show ids that differ as words, and a mask that differs under its tokens."""
    prompts, outputs, tokenizer = case.args[:3]
    words, both = tokenizer.convert_ids_to_tokens(range(len(tokenizer))), (("expected", expected), ("yours", yours))
    lines = [line(f"prompt {p!r}, output {o!r}") for p, o in zip(prompts, outputs, strict=True)]
    for key in KEYS:
        if expected[key].shape != yours[key].shape:
            shapes = f"expected {list(expected[key].shape)}, yours {list(yours[key].shape)}"
            return [*lines, line(f"{key} has another shape: {shapes}", "bad")]
    for key in ("input_ids", "labels"):
        for row in range(expected[key].shape[0]):
            if not same(expected[key][row], yours[key][row]):
                ids = [f"{name:9} {_words(words, batch[key][row])}" for name, batch in both]
                return [*lines, line(f"{key}, row {row}:"), line(ids[0], "good"), line(ids[1], "bad")]
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
