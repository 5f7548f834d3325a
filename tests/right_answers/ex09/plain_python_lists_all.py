"""Plain Python lists all the way, an int mask of 0 and 1."""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(
    prompt_strs, output_strs, tokenizer, *, append_eos: bool = False
) -> dict[str, torch.Tensor]:
    table = []
    for prompt, output in zip(prompt_strs, output_strs):
        p = list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prompt)))
        o = list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(output)))
        o += [tokenizer.eos_token_id] * append_eos
        table.append([(token, 0) for token in p] + [(token, 1) for token in o])
    longest = max(map(len, table))
    table = [row + [(tokenizer.pad_token_id, 0)] * (longest - len(row)) for row in table]
    return {
        "input_ids": torch.tensor([[token for token, _ in row[:-1]] for row in table], dtype=torch.int64),
        "labels": torch.tensor([[token for token, _ in row[1:]] for row in table], dtype=torch.int64),
        "response_mask": torch.tensor([[flag for _, flag in row[1:]] for row in table], dtype=torch.int64),
    }
