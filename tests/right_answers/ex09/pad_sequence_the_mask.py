"""Pad_sequence; the mask from positions by arange comparisons."""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(
    prompt_strs, output_strs, tokenizer, *, append_eos: bool = False
) -> dict[str, torch.Tensor]:
    from torch.nn.utils.rnn import pad_sequence

    def ids(text):
        return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)

    tail = torch.tensor([tokenizer.eos_token_id] if append_eos else [], dtype=torch.int64)
    prompts = [ids(p) for p in prompt_strs]
    outputs = [torch.cat([ids(o), tail]) for o in output_strs]
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    ends = starts + torch.tensor([len(o) for o in outputs])[:, None]
    padded = pad_sequence(
        [torch.cat(pair) for pair in zip(prompts, outputs)], batch_first=True, padding_value=tokenizer.pad_token_id
    )
    positions = torch.arange(1, padded.shape[1])[None, :]
    return {
        "input_ids": padded[:, :-1].clone(),
        "labels": padded[:, 1:].clone(),
        "response_mask": (positions >= starts) & (positions < ends),
    }
