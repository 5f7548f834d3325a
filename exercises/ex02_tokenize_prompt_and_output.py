"""ex02. From text to tensors: which token predicts which, and which of them the loss counts.

Topic: data. Difficulty 3 of 5, about 30 minutes. Taught in notebook 02_masked_loss.
Check it with `cs336-sft check ex02`; stuck? `cs336-sft hint ex02`.

tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict
    prompt_strs, output_strs    two lists of B strings (a text may be empty)
    tokenizer                   a Hugging Face tokenizer with a pad_token_id
    returns three tensors of shape [B, T], T = (longest prompt + output, in tokens) - 1
        input_ids       int64: the padded sequence without its last column
        labels          int64: the padded sequence without its first column
        response_mask   bool (or 0 and 1): true where the label is a token of the output; prompt and padding are not

Prompt and output are tokenized apart, without special tokens, nothing stripped or cut, and joined as ids. Padding
(tokenizer.pad_token_id) stands on the right. First pad, then cut the columns: so a row that is shorter than the longest
keeps its last token in input_ids.

By hand, B = 2, T = 4, one word a token, _ for padding:
    prompts "2 + 3 =" and "Q :", outputs "5" and "A"
    input_ids      2 + 3 =      Q : A _
    labels         + 3 = 5      : A _ _
    response_mask  . . . x      . x . .

The library's function also knows append_eos; that is ex09.
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer) -> dict[str, torch.Tensor]:
    """Input ids, labels and response mask, each of shape [B, T]."""
    raise NotImplementedError
