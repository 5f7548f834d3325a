"""Slip: padding in the mask.

Expected message: padding is supervised: only one end-of-text token is a target
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer, *, append_eos=False):
    rows, masks = [], []
    for prompt, output in zip(prompt_strs, output_strs, strict=True):
        p = tokenizer.encode(prompt, add_special_tokens=False)
        o = tokenizer.encode(output, add_special_tokens=False)
        if append_eos:
            o = o + [tokenizer.eos_token_id]
        rows.append(p + o)
        masks.append([0] * len(p) + [1] * len(o))
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, m) in enumerate(zip(rows, masks, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(m)] = torch.tensor(m, dtype=torch.bool)
    for i, m in enumerate(masks):
        mask[i, m.count(0) :] = True
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
