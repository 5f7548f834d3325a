"""Slip: prompt and output tokenized together.

Expected message: joined before they are tokenized
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer):
    rows, masks = [], []
    for prompt, output in zip(prompt_strs, output_strs, strict=True):
        p = tokenizer.encode(prompt, add_special_tokens=False)
        tokenizer.encode(output, add_special_tokens=False)
        row = tokenizer.encode(prompt + output, add_special_tokens=False)
        rows.append(row)
        masks.append([0] * len(p) + [1] * (len(row) - len(p)))
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, m) in enumerate(zip(rows, masks, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(m)] = torch.tensor(m, dtype=torch.bool)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
