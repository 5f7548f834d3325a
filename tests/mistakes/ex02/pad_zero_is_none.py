"""Slip: a pad id of 0 taken for none.

Expected message: takes a pad id of 0 for none
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict[str, torch.Tensor]:
    enc = lambda s: tokenizer.encode(s, add_special_tokens=False)  # noqa: E731
    pairs = [(enc(p), enc(o)) for p, o in zip(prompt_strs, output_strs, strict=True)]
    longest = max(len(p) + len(o) for p, o in pairs)
    ids = torch.full((len(pairs), longest), tokenizer.pad_token_id or tokenizer.eos_token_id, dtype=torch.long)
    mask = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for b, (p, o) in enumerate(pairs):
        ids[b, : len(p) + len(o)] = torch.tensor(p + o, dtype=torch.long)
        mask[b, len(p) : len(p) + len(o)] = True
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
