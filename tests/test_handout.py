"""The functions of the CS336 handout, with nothing but torch, transformers and pytest.

This file also runs in an assignment's own environment, with an older Python or transformers:
``python -m pytest tests/test_handout.py``. The references are written out here.
"""

from __future__ import annotations

import pytest
import torch
from conftest import make_random_model

from cs336_sft import (
    compute_entropy,
    get_response_log_probs,
    gsm8k_reward_fn,
    masked_mean,
    masked_normalize,
    question_only_reward_fn,
    r1_zero_reward_fn,
    sft_microbatch_train_step,
    tokenize_prompt_and_output,
)

PROMPTS = ["Question: 6*7?\nAnswer:", "Question: Tom has 3 boxes of 12 pencils. How many?\nAnswer:"]
OUTPUTS = [" 42\n#### 42", " 3*12 = 36\n#### 36"]


@pytest.fixture(scope="module")
def batch(tokenizer):
    return tokenize_prompt_and_output(PROMPTS, OUTPUTS, tokenizer)


def test_ids_labels_and_mask_are_the_shifted_concatenation(batch, tokenizer) -> None:
    for row, (prompt, output) in enumerate(zip(PROMPTS, OUTPUTS, strict=True)):
        p, o = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, output))
        n = len(p) + len(o)
        assert batch["labels"][row, : n - 1].tolist() == (p + o)[1:]
        assert batch["input_ids"][row, : n - 1].tolist() == (p + o)[:-1]
        assert batch["response_mask"][row].nonzero().flatten().tolist() == list(range(len(p) - 1, n - 1))


def test_log_probs_and_entropy_are_those_of_the_softmax(batch, tokenizer) -> None:
    model = make_random_model(tokenizer)
    found = get_response_log_probs(model, batch["input_ids"], batch["labels"], return_token_entropy=True)
    p = model(batch["input_ids"]).logits.double().softmax(-1)  # [B, T, V]
    chosen = p.gather(-1, batch["labels"].unsqueeze(-1)).squeeze(-1).log()
    mask = batch["response_mask"]
    torch.testing.assert_close(found["log_probs"][mask].double(), chosen[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found["token_entropy"][mask].double(), -(p * p.log()).sum(-1)[mask], atol=1e-4, rtol=1e-4
    )


def test_entropy_of_a_uniform_distribution_is_its_logarithm() -> None:
    torch.testing.assert_close(compute_entropy(torch.zeros(2, 3, 8)), torch.full((2, 3), 8.0).log())


def test_masked_sum_and_mean() -> None:
    tensor, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1, 1], [1, 0]])
    assert masked_normalize(tensor, mask, 2.0, dim=1).tolist() == [1.5, 1.5]
    assert masked_mean(tensor, mask).item() == 2.0


def test_the_microbatch_step_is_the_handouts(batch, tokenizer) -> None:
    model = make_random_model(tokenizer)
    mask = batch["response_mask"]
    log_probs = get_response_log_probs(model, batch["input_ids"], batch["labels"])["log_probs"]
    reference = -(log_probs.detach() * mask).sum(1).mean() / 4 / 10
    loss, _ = sft_microbatch_train_step(log_probs, mask, gradient_accumulation_steps=4, normalize_constant=10.0)
    torch.testing.assert_close(loss, reference)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_rewards() -> None:
    assert gsm8k_reward_fn("6 * 7 = 42\n#### 42", "42")["reward"] == 1.0
    assert gsm8k_reward_fn("6 * 7 = 42", "42")["reward"] == 0.0
    assert r1_zero_reward_fn("6 * 7</think> <answer>42</answer>", "42")["reward"] == 1.0
    assert question_only_reward_fn("So \\boxed{42}", "42")["reward"] == 1.0
