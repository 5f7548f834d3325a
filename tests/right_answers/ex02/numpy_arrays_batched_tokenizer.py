"""Numpy arrays, batched tokenizer calls, the mask written through the labels' offsets."""

from __future__ import annotations

import numpy as np
import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict[str, torch.Tensor]:
    prompts = tokenizer(list(prompt_strs), add_special_tokens=False)["input_ids"]
    outputs = tokenizer(list(output_strs), add_special_tokens=False)["input_ids"]
    size = (len(prompts), max(len(p) + len(o) for p, o in zip(prompts, outputs)))
    ids = np.full(size, tokenizer.pad_token_id, dtype=np.int64)
    mask = np.zeros(size, dtype=bool)
    for i, (p, o) in enumerate(zip(prompts, outputs)):
        n = len(p)
        ids[i, :n] = p
        ids[i, n : n + len(o)] = o
        mask[i, n : n + len(o)] = True
    ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
