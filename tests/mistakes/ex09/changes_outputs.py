"""Slip: end-of-text appended to the caller's list.

Expected message: tokenize_prompt_and_output changes its argument number 2 in place
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer, *, append_eos=False):
    if append_eos:
        for i in range(len(output_strs)):
            output_strs[i] += tokenizer.eos_token
    p = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in prompt_strs]
    o = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in output_strs]
    width = max(len(a) + len(b) for a, b in zip(p, o, strict=True))
    ids = torch.tensor(
        [a + b + [tokenizer.pad_token_id] * (width - len(a) - len(b)) for a, b in zip(p, o, strict=True)]
    )
    mask = torch.tensor(
        [[0] * len(a) + [1] * len(b) + [0] * (width - len(a) - len(b)) for a, b in zip(p, o, strict=True)]
    ).bool()
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
