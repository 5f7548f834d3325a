"""Slip: labels shifted, input_ids not cut.

Expected message: input_ids keep their last column
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer):
    sequences = []
    for prompt, output in zip(prompt_strs, output_strs, strict=True):
        p = tokenizer.encode(prompt, add_special_tokens=False)
        o = tokenizer.encode(output, add_special_tokens=False)
        sequences.append((p + o, [False] * len(p) + [True] * len(o)))
    longest = max(len(ids) for ids, _ in sequences)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in sequences])
    mask = torch.tensor([m + [False] * (longest - len(m)) for _, m in sequences])
    labels = torch.cat([ids[:, 1:], torch.full((len(ids), 1), pad)], dim=1)
    response_mask = torch.cat([mask[:, 1:], torch.zeros(len(ids), 1, dtype=torch.bool)], dim=1)
    return {"input_ids": ids, "labels": labels, "response_mask": response_mask}
