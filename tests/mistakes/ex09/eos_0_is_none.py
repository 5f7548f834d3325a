"""Slip: `if eos` for an id that may be 0.

Expected message: takes end-of-text for absent where its id is 0
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer, *, append_eos=False):
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rows, marks, before = [], [], []
    for prompt, output in zip(prompt_strs, output_strs, strict=True):
        a = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        b = tokenizer(output, add_special_tokens=False)["input_ids"]
        before.append(len(a) + len(b))
        if append_eos:
            b = b + ([eos] if eos else [])
        rows.append(a + b)
        marks.append([0] * len(a) + [1] * len(b))
    width = max(len(r) for r in rows)
    ids = torch.tensor([(r + [pad] * (width - len(r)))[:width] for r in rows])
    mask = torch.tensor([(m + [0] * (width - len(m)))[:width] for m in marks]).bool()
    return {
        "input_ids": ids[:, :-1],
        "labels": ids[:, 1:],
        "response_mask": mask[:, 1:],
    }
