"""ex02, solved plainly. The task and its contract are in exercises/ex02_tokenize_prompt_and_output.py."""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict[str, torch.Tensor]:
    """Input ids, labels and response mask, each of shape [B, T]."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    pairs = [(encode(prompt), encode(output)) for prompt, output in zip(prompt_strs, output_strs, strict=True)]
    width = max(len(prompt) + len(output) for prompt, output in pairs)
    rows, masks = [], []
    for prompt, output in pairs:
        fill = width - len(prompt) - len(output)
        rows.append(prompt + output + [tokenizer.pad_token_id] * fill)
        masks.append([False] * len(prompt) + [True] * len(output) + [False] * fill)
    ids, mask = torch.tensor(rows), torch.tensor(masks)  # [B, width]
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
