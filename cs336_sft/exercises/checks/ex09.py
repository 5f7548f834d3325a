"""ex09: end-of-text in the targets, also where padding has the same id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.checks.tokens import (
    PAD_IS_EOS,
    PLAIN,
    WITH_BOS,
    Pairs,
    batch_lines,
    batch_view,
    build,
    encode_pairs,
    right_mask,
)
from cs336_sft.exercises.compare import Slip, compare
from cs336_sft.exercises.report import Failure
from cs336_sft.exercises.sandbox.perform import Case
from cs336_sft.exercises.sandbox.runner import Session
from cs336_sft.tokenization import tokenize_prompt_and_output

FUNCTION = "tokenize_prompt_and_output"


def _cases() -> list[Case]:
    pair = ["2 + 3 ="], ["5 ."]
    pairs = ["2 + 3 =", "Q :"], ["5 .", "A : 5 so 5 ."]
    eos = {"append_eos": True}
    return [
        Case((*pair, PLAIN), label="one pair, append_eos left out"),
        Case((*pair, PLAIN), eos, label="one pair, append_eos=True, pad is not eos"),
        Case((*pairs, PLAIN), eos, label="two pairs, append_eos=True, pad is not eos"),
        Case((*pair, PAD_IS_EOS), eos, label="one pair, append_eos=True, pad and eos are the same token"),
        Case((*pairs, PAD_IS_EOS), eos, label="two pairs, append_eos=True, pad and eos are the same token"),
        Case(
            (*pairs, PAD_IS_EOS), {"append_eos": False}, label="two pairs, append_eos=False, pad and eos are the same"
        ),
        Case((*pair, WITH_BOS), eos, label="a tokenizer that puts <bos> before every text"),
        Case(
            (*pairs[:1], ["5 <eos> .", "A"], PLAIN),
            eos,
            label="an output that holds end-of-text itself",
            why="an end-of-text in the output is a response token like any other",
        ),
        Case((["Q :", "2 + 3 ="], ["", "5"], PAD_IS_EOS), eos, label="an empty output: its only target is end-of-text"),
    ]


def _with_eos(pairs: Pairs, eos: int) -> Pairs:
    return [(p, [*o, eos]) for p, o in pairs]


def _slip(
    extend: Callable[[Pairs, int], Pairs] = _with_eos,
    mask: Callable[[dict[str, torch.Tensor], Any], torch.Tensor] | None = None,
    always: bool | None = None,
) -> Callable[..., Any]:
    def wrong(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
        pairs = encode_pairs(prompts, outputs, tokenizer)
        if append_eos if always is None else always:
            pairs = extend(pairs, tokenizer.eos_token_id)
        batch = build(pairs, tokenizer.pad_token_id)
        if mask:
            batch["response_mask"] = mask(batch, tokenizer)
        return batch

    return wrong


def _appended_text(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
    pairs = encode_pairs(prompts, outputs, tokenizer)
    if append_eos:
        width = max(len(p) + len(o) for p, o in pairs)
        pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
        rows = [p + o + [pad] * (width - len(p) - len(o)) + [eos] for p, o in pairs]
        masks = [[len(p) <= i < len(p) + len(o) or i == width for i in range(width + 1)] for p, o in pairs]
        ids = torch.tensor(rows)
        return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": torch.tensor(masks)[:, 1:]}
    return build(pairs, tokenizer.pad_token_id)


def _prompt_plus(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
    pairs = encode_pairs(prompts, outputs, tokenizer)
    if append_eos:
        eos = tokenizer.eos_token_id
        pairs = [([*p, eos], [*o, eos]) for p, o in pairs]
    return build(pairs, tokenizer.pad_token_id)


def _mask_short(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
    pairs = encode_pairs(prompts, outputs, tokenizer)
    if not append_eos:
        return build(pairs, tokenizer.pad_token_id)
    return build(
        _with_eos(pairs, tokenizer.eos_token_id),
        tokenizer.pad_token_id,
        mask=lambda p, o, width, row: right_mask(p, o - 1, width, row),
    )


def _padding_too(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
    pairs = encode_pairs(prompts, outputs, tokenizer)
    if append_eos:
        pairs = _with_eos(pairs, tokenizer.eos_token_id)
    return build(pairs, tokenizer.pad_token_id, mask=lambda p, o, width, row: [i >= p for i in range(width)])


def _special_tokens(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
    pairs = encode_pairs(prompts, outputs, tokenizer, add_special_tokens=True)
    return build(_with_eos(pairs, tokenizer.eos_token_id) if append_eos else pairs, tokenizer.pad_token_id)


SLIPS = (
    Slip(
        "special-tokens",
        "a <bos> stands in front of prompt and output: pass add_special_tokens=False",
        _special_tokens,
    ),
    Slip(
        "eos-dropped",
        "append_eos=True does nothing: no end-of-text in the targets, and the model never learns to stop",
        _slip(always=False),
    ),
    Slip("eos-always", "end-of-text is appended even without append_eos", _slip(always=True)),
    Slip("eos-masked", "end-of-text is appended but masked: the mask ends one token early", _mask_short),
    Slip(
        "eos-masked-as-pad",
        "end-of-text is masked because it has the id of padding:\nmake the mask from lengths, not by comparing ids with pad_token_id",
        _slip(mask=lambda b, t: b["response_mask"] & (b["labels"] != t.pad_token_id)),
    ),
    Slip(
        "eos-masked-as-eos",
        "end-of-text is masked whatever the padding: the model never learns to stop",
        _slip(mask=lambda b, t: b["response_mask"] & (b["labels"] != t.eos_token_id)),
    ),
    Slip("padding-supervised", "padding is supervised: only one end-of-text token is a target", _padding_too),
    Slip(
        "eos-id-supervised",
        "every token with the eos id is supervised, padding too: only one end-of-text token is a target",
        _slip(mask=lambda b, t: b["response_mask"] | (b["labels"] == t.eos_token_id)),
    ),
    Slip(
        "eos-after-padding",
        "end-of-text stands after the padding, in the last column: it follows the last response token",
        _appended_text,
    ),
    Slip("eos-after-prompt", "the prompt gets an end-of-text too: it belongs after the output only", _prompt_plus),
    Slip(
        "eos-before-output",
        "end-of-text stands before the output instead of after it",
        _slip(lambda pairs, eos: [(p, [eos, *o]) for p, o in pairs]),
    ),
    Slip(
        "eos-twice", "end-of-text is appended twice", _slip(lambda pairs, eos: [(p, [*o, eos, eos]) for p, o in pairs])
    ),
    Slip(
        "eos-first-row",
        "only the first row gets its end-of-text",
        _slip(lambda pairs, eos: [(p, [*o, eos] if i == 0 else o) for i, (p, o) in enumerate(pairs)]),
    ),
    Slip(
        "eos-longest-row",
        "only the longest row gets its end-of-text",
        _slip(
            lambda pairs, eos: [
                (p, [*o, eos] if len(p) + len(o) == max(len(a) + len(b) for a, b in pairs) else o) for p, o in pairs
            ]
        ),
    ),
    Slip(
        "pad-for-eos",
        "the padding id is appended instead of the eos id: they are the same only in some tokenizers",
        lambda p, o, t, *, append_eos=False: build(
            _with_eos(encode_pairs(p, o, t), t.pad_token_id) if append_eos else encode_pairs(p, o, t), t.pad_token_id
        ),
    ),
    Slip(
        "eos-replaces",
        "end-of-text replaces the last response token instead of following it",
        _slip(lambda pairs, eos: [(p, [*o[:-1], eos]) for p, o in pairs]),
    ),
    Slip(
        "empty-output",
        "an empty output gets no end-of-text",
        _slip(lambda pairs, eos: [(p, [*o, eos] if o else o) for p, o in pairs]),
    ),
)


def check(session: Session) -> Failure | None:
    return compare(session, FUNCTION, _cases(), tokenize_prompt_and_output, SLIPS, view=batch_view, show=batch_lines)
