"""ex09: end-of-text in the targets, also where padding has the same id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cs336_sft.exercises.checks import tokens
from cs336_sft.exercises.compare import Check, slips

CASES = [*tokens.text_cases("ex09"), *tokens.random_cases(9, append_eos=True), *tokens.random_cases(10)[:3]]


def _with_eos(pairs: tokens.Pairs, eos: int) -> tokens.Pairs:
    return [(p, [*o, eos]) for p, o in pairs]


def _cut_to_width(pairs: tokens.Pairs, eos: int) -> tokens.Pairs:
    width = max(len(p) + len(o) for p, o in pairs)
    return [(p, [*o, eos][: width - len(p)]) for p, o in pairs]


def _slip(
    extend: Callable[[tokens.Pairs, int], tokens.Pairs] = _with_eos,
    *,
    rule: Callable[..., list[bool]] = tokens.right_mask,
    mask: Callable[[dict[str, torch.Tensor], Any], torch.Tensor] = lambda batch, tokenizer: batch["response_mask"],
    always: bool | None = None,
    cut_first: bool = False,
    pad_with: str = "pad_token_id",
    **encoding: bool,
) -> Callable[..., Any]:
    """Make the reference, or, with one part replaced, a slip.

    ``extend`` appends the eos id to the pairs, ``rule`` makes the mask of a row with end-of-text, ``mask`` changes the
    finished batch's; with ``always`` it is appended or not, whatever was asked for.
    """

    def tokenize(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
        pairs, pad = tokens.encode_pairs(prompts, outputs, tokenizer, **encoding), getattr(tokenizer, pad_with)
        if append_eos if always is None else always:
            batch = tokens.build(extend(pairs, tokenizer.eos_token_id), pad, mask=rule, cut_first=cut_first)
        else:
            batch = tokens.build(pairs, pad, cut_first=cut_first)
        return batch | {"response_mask": mask(batch, tokenizer)}

    return tokenize


def _appended_text(prompts: Any, outputs: Any, tokenizer: Any, *, append_eos: bool = False) -> Any:
    pairs = tokens.encode_pairs(prompts, outputs, tokenizer)
    if not append_eos:
        return tokens.build(pairs, tokenizer.pad_token_id)
    batch = tokens.build(pairs, tokenizer.pad_token_id, keep_last=True)
    batch["labels"][:, -1] = tokenizer.eos_token_id
    batch["response_mask"][:, -1] = True
    return batch


SLIPS = slips(
    "ex09",
    {
        "special-tokens": _slip(add_special_tokens=True),
        "eos-dropped": _slip(always=False),
        "eos-always": _slip(always=True),
        "eos-masked": _slip(rule=lambda p, o, width: tokens.right_mask(p, o - 1, width)),
        "eos-masked-as-pad": _slip(mask=lambda b, t: b["response_mask"] & (b["labels"] != t.pad_token_id)),
        "eos-masked-as-eos": _slip(mask=lambda b, t: b["response_mask"] & (b["labels"] != t.eos_token_id)),
        "padding-supervised": _slip(mask=lambda b, t: b["response_mask"].long().cummax(dim=1).values.bool()),
        "eos-id-supervised": _slip(mask=lambda b, t: b["response_mask"] | (b["labels"] == t.eos_token_id)),
        "eos-after-padding": _appended_text,
        "eos-after-prompt": _slip(lambda pairs, eos: [([*p, eos], [*o, eos]) for p, o in pairs]),
        "eos-before-output": _slip(lambda pairs, eos: [(p, [eos, *o]) for p, o in pairs]),
        "eos-twice": _slip(lambda pairs, eos: [(p, [*o, eos, eos]) for p, o in pairs]),
        "pad-for-eos": lambda p, o, t, *, append_eos=False: tokens.build(
            _with_eos(tokens.encode_pairs(p, o, t), t.pad_token_id) if append_eos else tokens.encode_pairs(p, o, t),
            t.pad_token_id,
        ),
        "eos-replaces": _slip(lambda pairs, eos: [(p, [*o[:-1], eos]) for p, o in pairs]),
        "stripped": lambda p, o, t, **settings: _slip()(p, [x.strip() for x in o], t, **settings),
        "eos-once": _slip(lambda pairs, eos: [(p, o if o[-1:] == [eos] else [*o, eos]) for p, o in pairs]),
        "cut-before-padding": _slip(cut_first=True),
        "pad-with-eos": _slip(pad_with="eos_token_id"),
        "cut-to-width": _slip(lambda pairs, eos: _cut_to_width(pairs, eos)),
        "eos-0": _slip(lambda pairs, eos: [(p, [*o, eos] if eos else o) for p, o in pairs]),
        "empty-output": _slip(lambda pairs, eos: [(p, [*o, eos] if o else o) for p, o in pairs]),
    },
)


# The reference is the exercise's own: the library's function also lets prompts begin with BOS.
CHECKS = (Check("tokenize_prompt_and_output", CASES, _slip(), SLIPS, view=tokens.batch_view, show=tokens.batch_lines),)
