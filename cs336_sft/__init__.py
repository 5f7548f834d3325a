"""Supervised fine-tuning and expert iteration of a small language model on grade-school maths.

Every public name can be imported from here. Names are looked up on first use, so that ``import cs336_sft`` and
``cs336-sft --help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "records": ("Batch", "Example", "Generation", "Graded", "Problem"),
    "errors": ("ConfigError", "CourseError", "DataError"),
    "prompts": ("few_shot", "get_template"),
    "data.gsm8k": ("load_gsm8k", "read_problems"),
    "data.word_problems": ("generate_problems",),
    "tokenization": ("collate", "make_examples", "tokenize_prompt_and_output"),
    "losses": ("masked_mean", "masked_normalize", "sft_loss", "sft_microbatch_train_step", "token_mean_loss"),
    "logprobs": ("chunked_log_probs", "compute_entropy", "get_response_log_probs"),
    "grading": (
        "get_reward_fn",
        "gsm8k_reward_fn",
        "lenient_reward_fn",
        "question_only_reward_fn",
        "r1_zero_reward_fn",
        "read_answer",
    ),
    "generation.sampler": ("SamplingConfig",),
    "generation.hf_sampler": ("HFSampler",),
    "generation.make_sampler": ("make_sampler",),
    "generation.vllm_backend.config": ("VLLMConfig",),
    "generation.vllm_backend.sampler": ("VLLMSampler",),
    "evaluation.handout": ("evaluate_vllm", "init_vllm", "load_policy_into_vllm_instance", "log_generations"),
    "evaluation.intervals": ("paired_difference_interval", "wilson_interval"),
    "evaluation.metrics": ("compute_metrics",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.generations_file": ("read_generations",),
    "training.loop": ("SFTConfig", "train_sft"),
    "model.lora": ("AdapterConfig",),
    "experiments.config": ("RunConfig", "make_config", "make_ei_config"),
    "experiments.run": ("run_sft",),
    "experiments.grid": ("Grid",),
    "experiments.sweep": ("run_sweep",),
    "expert_iteration.config": ("ExpertIterationConfig",),
    "experiments.run_expert_iteration": ("run_expert_iteration",),
    "expert_iteration.selection": ("select_samples",),
    "grpo.config": ("GRPOConfig",),
    "grpo.loop": ("run_grpo",),
    "grpo.advantages": ("compute_group_normalized_rewards",),
    "grpo.losses": (
        "compute_grpo_clip_loss",
        "compute_naive_policy_gradient_loss",
        "compute_policy_gradient_loss",
        "grpo_microbatch_train_step",
    ),
    "experiments.profiles": ("get_profile",),
    "exercises": ("check",),
    "model.loading": ("load_model_and_tokenizer",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cs336_sft' has no attribute {name!r}")
    return getattr(import_module(f"cs336_sft.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
