"""Loops and slices of a padded tensor."""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(
    prompt_strs, output_strs, tokenizer, *, append_eos: bool = False
) -> dict[str, torch.Tensor]:
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in prompt_strs]
    outputs = [tokenizer.encode(text, add_special_tokens=False) for text in output_strs]
    rows, masks = [], []
    for prompt, output in zip(prompts, outputs, strict=True):
        if append_eos:
            output = output + [tokenizer.eos_token_id]
        rows.append(prompt + output)
        masks.append([False] * len(prompt) + [True] * len(output))
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.bool)
    for i, (row, row_mask) in enumerate(zip(rows, masks, strict=True)):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = torch.tensor(row_mask, dtype=torch.bool)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
