"""ex09, solved plainly. The task and its contract are in exercises/ex09_append_eos.py."""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(
    prompt_strs, output_strs, tokenizer, *, append_eos: bool = False
) -> dict[str, torch.Tensor]:
    """Input ids, labels and response mask, each of shape [B, T]; end-of-text appended if asked for."""

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    ending = [tokenizer.eos_token_id] if append_eos else []
    pairs = [(encode(prompt), encode(output) + ending) for prompt, output in zip(prompt_strs, output_strs, strict=True)]
    width = max(len(prompt) + len(output) for prompt, output in pairs)
    rows, masks = [], []
    for prompt, output in pairs:
        fill = width - len(prompt) - len(output)
        rows.append(prompt + output + [tokenizer.pad_token_id] * fill)
        masks.append([False] * len(prompt) + [True] * len(output) + [False] * fill)  # from lengths, not from ids
    ids, mask = torch.tensor(rows), torch.tensor(masks)  # [B, width]
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "response_mask": mask[:, 1:]}
