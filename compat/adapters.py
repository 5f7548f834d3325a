"""Stanford's tests of CS336 assignment 5 against this library: copy this over your checkout's `tests/adapters.py`.

Serves the 2025 and the 2026 edition (commands: docs/how-this-is-tested.md). What the library does not do (GRPO of
2026, DPO, packing, MMLU) raises NotImplementedError, as in the handout's own file, so that those tests fail.
"""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor

import cs336_sft


def run_tokenize_prompt_and_output(prompt_strs: Any, output_strs: Any, tokenizer: Any) -> dict[str, Tensor]:
    """2025 and 2026."""
    return cs336_sft.tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer)


def run_get_response_log_probs(
    model: Any, input_ids: Tensor, labels: Tensor, return_token_entropy: bool
) -> dict[str, Tensor]:
    """2025 and 2026."""
    return cs336_sft.get_response_log_probs(model, input_ids, labels, return_token_entropy)


def run_compute_entropy(logits: Tensor) -> Tensor:
    """2025."""
    return cs336_sft.compute_entropy(logits)


def run_masked_normalize(
    tensor: Tensor, mask: Tensor, dim: int | None = None, normalize_constant: float = 1.0
) -> Tensor:
    """2025. The adapter's arguments stand in another order than the function's."""
    return cs336_sft.masked_normalize(tensor, mask, normalize_constant, dim)


def run_masked_mean(tensor: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """2025 (in the GRPO part)."""
    return cs336_sft.masked_mean(tensor, mask, dim)


def run_sft_microbatch_train_step(
    policy_log_probs: Tensor,
    response_mask: Tensor,
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """2025."""
    return cs336_sft.sft_microbatch_train_step(
        policy_log_probs, response_mask, gradient_accumulation_steps, normalize_constant
    )


# The policy gradients of 2025: the adapters' arguments are the functions'.
run_compute_group_normalized_rewards = cs336_sft.compute_group_normalized_rewards
run_compute_naive_policy_gradient_loss = cs336_sft.compute_naive_policy_gradient_loss
run_compute_grpo_clip_loss = cs336_sft.compute_grpo_clip_loss
run_compute_policy_gradient_loss = cs336_sft.compute_policy_gradient_loss
run_grpo_microbatch_train_step = cs336_sft.grpo_microbatch_train_step


def _not_here(*args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError("no part of cs336_sft")


# 2026.
run_compute_rollout_rewards = run_aggregate_loss_across_microbatch = run_grpo_train_step = _not_here
# The optional part on instruction tuning and safety.
get_packed_sft_dataset = run_iterate_batches = run_parse_mmlu_response = _not_here
run_parse_gsm8k_response = run_compute_per_instance_dpo_loss = _not_here
