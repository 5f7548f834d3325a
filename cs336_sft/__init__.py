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
    "errors": (
        "ConfigError",
        "ContextLengthError",
        "CourseError",
        "DataError",
        "EngineDiedError",
        "EngineMismatchError",
        "RunDirectoryError",
        "StaleEngineError",
    ),
    "prompts": ("PromptTemplate", "get_template"),
    "gsm8k": ("hold_out", "load_gsm8k", "read_problems", "write_problems"),
    "wordproblems": ("generate_problems",),
    "annotations": ("check_annotations",),
    "tokenization": ("collate", "make_examples", "tokenize_prompt_and_output"),
    "lengths": ("length_percentiles", "token_lengths"),
    "losses": ("masked_mean", "masked_normalize", "sft_microbatch_train_step", "token_weighted_loss"),
    "memory": ("StepSetup", "estimate_memory"),
    "memory_measurement": ("measure_memory",),
    "batch_finder": ("find_batch_size",),
    "logprobs": ("chunked_log_probs", "compute_entropy", "get_response_log_probs"),
    "chunked_head": ("head_log_probs", "one_pass_loss"),
    "output_head": ("OutputHead", "run_to_head"),
    "grading": (
        "detect_style",
        "get_reward_fn",
        "gsm8k_reward_fn",
        "lenient_reward_fn",
        "question_only_reward_fn",
        "r1_zero_reward_fn",
        "read_answer",
    ),
    "sampling": ("Sampler", "SamplingConfig"),
    "hf_sampler": ("HFSampler",),
    "samplers": ("make_sampler",),
    "vllm_config": ("VLLMConfig",),
    "vllm_sampler": ("VLLMSampler",),
    "vllm_handout": ("evaluate_vllm", "init_vllm", "load_policy_into_vllm_instance"),
    "intervals": ("clustered_rate_interval", "mean_interval", "paired_difference_interval", "wilson_interval"),
    "metrics": ("Metrics", "compute_metrics"),
    "evaluation": ("Evaluation", "evaluate", "read_generations", "rescore_at_limit"),
    "stopping": ("count_endings", "eos_log_probs", "find_first_answer", "find_recorded_answer"),
    "rescoring": ("rescore_at_first_answer", "rescore_in_context", "rescore_with_stop"),
    "generation_log": ("log_generations",),
    "training": ("SFTConfig", "TrainingResult", "load_result", "train_sft"),
    "adapter_config": ("AdapterConfig",),
    "adapters": ("add_adapter", "load_quantized", "merge_adapter"),
    "forgetting": ("calculations", "score_calculations", "text_loss"),
    "run_settings": ("RunSettings", "make_settings", "run_name"),
    "sft_run": ("run_sft",),
    "sweep_grid": ("Grid", "read_grid"),
    "sweep": ("run_sweep",),
    "sweep_record": (
        "read_record",
        "read_recorded",
        "recorded_generations",
        "recorded_losses",
        "sweep_frame",
        "sweep_losses",
        "write_record",
    ),
    "sweep_summary": ("plot_curves", "plot_sweep", "summarise"),
    "ei_config": ("ExpertIterationConfig",),
    "ei_plots": ("plot_arms", "plot_rounds"),
    "ei_record": ("EIRecord", "read_record"),
    "ei_result": ("ExpertIterationResult", "load_expert_iteration"),
    "ei_loop": ("expert_iteration",),
    "selection": ("random_samples", "select_samples"),
    "ei_metrics": ("pass_at_k",),
    "profiles": ("get_profile",),
    "exercises": ("check",),
    "models": ("embedded_model_path", "load_model_and_tokenizer"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cs336_sft' has no attribute {name!r}")
    return getattr(import_module(f"cs336_sft.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
