"""ex09. Teach the model to stop: end-of-text in the targets.

Topic: data. Difficulty 3 of 5, about 20 minutes. Taught in notebook 02_masked_loss.
Check it with `cs336-sft check ex09`; stuck? `cs336-sft hint ex09`.

tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer, *, append_eos=False) -> dict
    as in ex02, and with append_eos=True every output (an empty one too) is followed by tokenizer.eos_token_id,
    which then is a response token like any other: it is a label, and response_mask marks it.

In the Qwen base models padding and end-of-text have the same id. The one end-of-text is a target, the padding behind it
is not. So the mask can't be made by looking at ids. The two lists of strings stay as they are.

By hand, append_eos=True, E is both end-of-text and padding, T = 4:
    prompts "2 +" and "Q", outputs "3 =" and "A"
    labels         + 3 = E      A E E E
    response_mask  . x x x      x x . .
"""

from __future__ import annotations

import torch


def tokenize_prompt_and_output(
    prompt_strs, output_strs, tokenizer, *, append_eos: bool = False
) -> dict[str, torch.Tensor]:
    """Input ids, labels and response mask, each of shape [B, T]; end-of-text appended if asked for."""
    raise NotImplementedError
