"""ex02: prompts and outputs to input ids, labels and response mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cs336_sft.exercises.checks import tokens
from cs336_sft.exercises.compare import Check, slips


def _slip(**settings: Any) -> Callable[..., Any]:
    encoding = settings.pop("encoding", {})
    return lambda prompts, outputs, tokenizer: tokens.build(
        tokens.encode_pairs(prompts, outputs, tokenizer, **encoding), **({"pad": tokenizer.pad_token_id} | settings)
    )


def _joined(prompts: Any, outputs: Any, tokenizer: Any) -> Any:
    pairs = tokens.encode_pairs(prompts, outputs, tokenizer)
    whole = [tokenizer(p + o, add_special_tokens=False)["input_ids"] for p, o in zip(prompts, outputs, strict=True)]
    return tokens.build(
        [(w[: len(p)], w[len(p) :]) for w, (p, _) in zip(whole, pairs, strict=True)], tokenizer.pad_token_id
    )


def _changed(prompts: Any, outputs: Any, tokenizer: Any, key: str, change: Callable[[Any], Any]) -> Any:
    batch = _slip()(prompts, outputs, tokenizer)
    mask, value = batch["response_mask"], change(batch)
    return batch | {key: mask & value if key == "response_mask" else batch["labels"].where(mask, value)}


def _first_row(prompts: Any, outputs: Any, tokenizer: Any) -> Any:
    pairs = tokens.encode_pairs(prompts, outputs, tokenizer)
    p0, o0 = map(len, pairs[0])
    return tokens.build(pairs, tokenizer.pad_token_id, mask=lambda p, o, width: tokens.right_mask(p0, o0, width))


SLIPS = slips(
    "ex02",
    {
        "mask-not-shifted": _slip(mask=lambda p, o, width: tokens.right_mask(p + 1, o, width)),
        "mask-shifted-twice": _slip(mask=lambda p, o, width: tokens.right_mask(p - 1, o, width)),
        "prompt-supervised": _slip(mask=lambda p, o, width: [i < p + o for i in range(width)]),
        "padding-supervised": _slip(mask=lambda p, o, width: [i >= p for i in range(width)]),
        "all-supervised": _slip(mask=lambda p, o, w: [True] * w),
        "mask-of-row-0": _first_row,
        "empty-prompt": _slip(mask=lambda p, o, width: [p and i for i in tokens.right_mask(p, o, width)]),
        "swapped": _slip(mask=lambda p, o, width: [i < p for i in range(width)]),
        "lengths-swapped": _slip(mask=lambda p, o, width: tokens.right_mask(o, p, width)),
        "padded-left": _slip(left=True),
        "no-shift": _slip(keep_last=True),
        "cut-before-padding": _slip(cut_first=True),
        "pad-with-0": _slip(pad=0),
        "pad-0-is-none": lambda p, o, t: tokens.build(tokens.encode_pairs(p, o, t), t.pad_token_id or t.eos_token_id),
        "pad-with-eos": lambda p, o, t: tokens.build(tokens.encode_pairs(p, o, t), t.eos_token_id),
        "joined-text": _joined,
        "special-tokens": _slip(encoding={"add_special_tokens": True}),
        "pad-id-masked": lambda p, o, t: _changed(p, o, t, "response_mask", lambda b: b["labels"] != t.pad_token_id),
        "truncated": _slip(encoding={"truncation": True}),
        "stripped": lambda p, o, t: _slip()([x.strip() for x in p], [x.strip() for x in o], t),
        "blank-between": lambda p, o, t: _slip()(p, [" " + x for x in o], t),
        "labels-100": lambda p, o, t: _changed(p, o, t, "labels", lambda b: -100 + 0 * b["labels"]),
    },
)


# The reference is the exercise's own: the library's function also lets prompts begin with BOS.
CASES = [*tokens.text_cases("ex02"), *tokens.random_cases(3)]
CHECKS = (Check("tokenize_prompt_and_output", CASES, _slip(), SLIPS, view=tokens.batch_view, show=tokens.batch_lines),)
