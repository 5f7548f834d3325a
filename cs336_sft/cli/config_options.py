"""Command-line options made from the fields of a configuration: ``gen_batch_size`` is ``--gen-batch-size``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cs336_sft.cli import common
from cs336_sft.experiments.grid import parse_value

# Help texts of the fields that `sft`, `ei` and `grpo` share, and of the command `sft`.
HELP = {
    "profile": "profile that gives the defaults (default $CS336_PROFILE, or tiny)",
    "model": "model folder or hub name (default: the profile's model)",
    "template": "prompt template and answer format (default: the profile's)",
    "data": "training problems: a JSONL file, or GSM8K as a folder or hub name (default: the profile's)",
    "eval_data": "evaluation problems, in the same forms (default: the profile's validation split)",
    "train_size": "number of training problems, or full (default: the profile's, 512)",
    "subset_seed": "random seed for choosing the training problems (default: the value of --seed)",
    "seed": "random seed for choosing and shuffling the training problems (default 0)",
    "append_eos": "train on the end-of-text token after each response (default on)",
    "learning_rate": "peak learning rate (default: the profile's, 10 times as high for adapters)",
    "epochs": "passes over the training problems (default: the profile's, 3)",
    "max_steps": "optimizer steps, in place of --epochs",
    "batch_size": "sequences in one optimizer step (default: the profile's, 8)",
    "micro_batch_size": "sequences on the device at once, at most (default: the profile's)",
    "warmup": "warm-up: a number of steps, or a fraction of the run such as 0.1 (default 0)",
    "schedule": "learning-rate schedule after the warm-up (default constant)",
    "weight_decay": "AdamW's weight decay, on matrices only (default 0)",
    "betas": "AdamW's two betas as one JSON list (default [0.9,0.95])",
    "max_grad_norm": "gradient norm above which gradients are scaled down, or none (default 1.0)",
    "mixed_precision": "computation in bfloat16 over float32 weights (default on a GPU: the profile's)",
    "weights_dtype": "type of the trained weights (default float32)",
    "normalization": "mean over the step's tokens, or the handout's sum over a constant (default tokens)",
    "normalize_constant": "divisor of the handout's normalization (default 1.0)",
    "gradient_checkpointing": "recompute activations: less memory, about a third more time (default off)",
    "eval_every": "steps between evaluations, a JSON list of steps, log (1, 2, 4, ...) or none (default log)",
    "checkpoint_every": "steps between checkpoints, or epoch (default epoch)",
    "keep_checkpoints": "number of newest checkpoints to keep, or none for all (default 2)",
    "progress": "show a progress bar (default on)",
    "method": "training of all weights, of a LoRA adapter, or of one over 4-bit weights (default full)",
    "lora_r": "rank of the adapter (default 16)",
    "lora_alpha": "scale of the adapter, divided by its rank (default 32)",
    "lora_dropout": "fraction of the adapter's inputs that is dropped in training (default 0)",
    "lora_targets": "names of the adapted layers as a JSON list (default: all linear layers)",
    "eval_size": "number of validation problems (default: the profile's, 256)",
    "max_new_tokens": "generation limit in tokens (default: the profile's)",
    "test_checkpoint": "test at the end with the last weights, or with the best on validation (default: no test)",
    "sampler": "generation engine (default hf)",
    "gen_batch_size": "sequences that the hf sampler generates at once (default 32, on a GPU 64)",
}


def add_run_options(parser: argparse.ArgumentParser, config_class: type, texts: dict[str, str], run: Callable) -> None:
    """Add the options of a command that makes or continues the run of a configuration."""
    parser.add_argument("--out", metavar="DIR", required=True, help="run directory; an interrupted run goes on")
    add_options(parser, config_class, texts)
    common.add_vllm(parser, gpu_memory_utilization=0.3)
    common.add_json(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser, config_class: type, texts: dict[str, str]) -> None:
    """Add an option for each field of ``config_class`` that ``texts`` describes.

    Options that are not given are missing from the namespace, so that the configuration's defaults hold.
    """
    hints = get_type_hints(config_class)
    for name, text in texts.items():
        union = get_origin(hints[name]) in (Union, UnionType)
        kinds = set(get_args(hints[name]) if union else (hints[name],)) - {NoneType}
        settings: dict[str, Any] = {"type": parse_value, "metavar": "VALUE"}
        if kinds == {bool}:
            settings = {"action": argparse.BooleanOptionalAction}
        elif kinds == {str}:
            settings = {"metavar": "TEXT"}
        elif {get_origin(kind) for kind in kinds} == {Literal}:
            settings = {"choices": [value for kind in kinds for value in get_args(kind)]}
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=argparse.SUPPRESS, help=text, **settings)


def given_fields(args: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """Return the fields of ``config_class`` that the command line sets."""
    return {item.name: getattr(args, item.name) for item in fields(config_class) if hasattr(args, item.name)}
