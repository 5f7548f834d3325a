"""Slip: each row cut before padding.

Expected message: each row loses its last token before padding
"""

from __future__ import annotations

import torch
from torch.nn.utils.rnn import pad_sequence


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer):
    inputs, labels, masks = [], [], []
    for prompt, output in zip(prompt_strs, output_strs, strict=True):
        p = tokenizer.encode(prompt, add_special_tokens=False)
        o = tokenizer.encode(output, add_special_tokens=False)
        row = torch.tensor(p + o)
        mask = torch.tensor([False] * len(p) + [True] * len(o))
        inputs.append(row[:-1])
        labels.append(row[1:])
        masks.append(mask[1:])
    pad = tokenizer.pad_token_id
    return {
        "input_ids": pad_sequence(inputs, batch_first=True, padding_value=pad),
        "labels": pad_sequence(labels, batch_first=True, padding_value=pad),
        "response_mask": pad_sequence(masks, batch_first=True, padding_value=False),
    }
