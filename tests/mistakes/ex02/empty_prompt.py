"""Slip: a slice that begins at -1.

Expected message: nothing is supervised where the prompt is empty
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict[str, torch.Tensor]:
    enc = lambda s: tokenizer.encode(s, add_special_tokens=False)  # noqa: E731
    pairs = [(enc(p), enc(o)) for p, o in zip(prompt_strs, output_strs, strict=True)]
    longest = max(len(p) + len(o) for p, o in pairs)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([p + o + [pad] * (longest - len(p) - len(o)) for p, o in pairs])
    mask = torch.zeros(len(pairs), longest - 1, dtype=torch.bool)
    for b, (p, o) in enumerate(pairs):
        mask[b, len(p) - 1 : len(p) + len(o) - 1] = True
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask}
