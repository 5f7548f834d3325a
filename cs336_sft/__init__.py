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
    "data.gsm8k": ("hold_out", "load_gsm8k", "read_problems", "write_problems"),
    "data.word_problems": ("generate_problems",),
    "data.calculator_annotations": ("check_annotations",),
    "tokenization": ("collate", "make_examples", "tokenize_prompt_and_output"),
    "data.token_lengths": ("length_percentiles", "token_lengths"),
    "losses": ("masked_mean", "masked_normalize", "sft_microbatch_train_step", "token_weighted_loss"),
    "model.memory_estimate": ("StepSetup", "estimate_memory"),
    "model.memory_measurement": ("measure_memory",),
    "model.batch_size": ("find_batch_size",),
    "logprobs": ("chunked_log_probs", "compute_entropy", "get_response_log_probs"),
    "model.chunked_head": ("head_log_probs", "one_pass_loss"),
    "model.output_head": ("OutputHead", "run_to_head"),
    "grading": (
        "detect_style",
        "get_reward_fn",
        "gsm8k_reward_fn",
        "lenient_reward_fn",
        "question_only_reward_fn",
        "r1_zero_reward_fn",
        "read_answer",
    ),
    "generation.sampler": ("Sampler", "SamplingConfig"),
    "generation.hf_sampler": ("HFSampler",),
    "generation.make_sampler": ("make_sampler",),
    "generation.vllm_backend.config": ("VLLMConfig",),
    "generation.vllm_backend.sampler": ("VLLMSampler",),
    "evaluation.evaluate_vllm": ("evaluate_vllm", "init_vllm", "load_policy_into_vllm_instance"),
    "evaluation.intervals": (
        "clustered_rate_interval",
        "mean_interval",
        "paired_difference_interval",
        "wilson_interval",
    ),
    "evaluation.metrics": ("Metrics", "compute_metrics"),
    "evaluation.evaluate": ("Evaluation", "evaluate", "read_generations", "rescore_at_limit"),
    "evaluation.truncation": ("count_endings", "eos_log_probs", "find_first_answer", "find_recorded_answer"),
    "evaluation.rescoring": ("rescore_at_first_answer", "rescore_in_context", "rescore_with_stop"),
    "evaluation.log_generations": ("log_generations",),
    "training.loop": ("SFTConfig", "TrainingResult", "load_result", "train_sft"),
    "model.lora_config": ("AdapterConfig",),
    "model.lora": ("add_adapter", "load_quantized", "merge_adapter"),
    "lessons.forgetting": ("calculations", "score_calculations", "text_loss"),
    "experiments.settings": ("RunSettings", "make_settings", "run_name"),
    "experiments.run": ("run_sft",),
    "experiments.grid": ("Grid", "read_grid"),
    "experiments.sweep": ("run_sweep",),
    "experiments.record": (
        "read_record",
        "read_recorded",
        "recorded_generations",
        "recorded_losses",
        "sweep_frame",
        "sweep_losses",
        "write_record",
    ),
    "experiments.summary": ("plot_curves", "plot_sweep", "summarise"),
    "expert_iteration.config": ("ExpertIterationConfig",),
    "experiments.ei_plots": ("plot_arms", "plot_rounds"),
    "experiments.ei_record": ("EIRecord", "read_record"),
    "expert_iteration.result": ("ExpertIterationResult", "load_expert_iteration"),
    "expert_iteration.loop": ("run_expert_iteration",),
    "expert_iteration.selection": ("random_samples", "select_samples"),
    "expert_iteration.metrics": ("pass_at_k",),
    "experiments.profiles": ("get_profile",),
    "exercises": ("check",),
    "model.loading": ("embedded_model_path", "load_model_and_tokenizer"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cs336_sft' has no attribute {name!r}")
    return getattr(import_module(f"cs336_sft.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
