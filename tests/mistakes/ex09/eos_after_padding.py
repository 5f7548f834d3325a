"""Slip: eos put behind the padded row.

Expected message: end-of-text stands after the padding
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer, *, append_eos=False):
    rows, masks = [], []
    for prompt, output in zip(prompt_strs, output_strs, strict=True):
        p = tokenizer.encode(prompt, add_special_tokens=False)
        o = tokenizer.encode(output, add_special_tokens=False)
        rows.append(p + o)
        masks.append([False] * len(p) + [True] * len(o))
    longest = max(map(len, rows))
    rows = [row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
    masks = [mask + [False] * (longest - len(mask)) for mask in masks]
    if append_eos:
        rows = [row + [tokenizer.eos_token_id] for row in rows]
        masks = [mask + [True] for mask in masks]
    ids, mask = torch.tensor(rows), torch.tensor(masks)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
