"""What comes before the first step: checks, so that a run fails in its first second, and the facts that it records."""

from __future__ import annotations

import hashlib
import json
import platform
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as hf_logging

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.model.lora import adapter_facts
from cs336_sft.model.shape import context_length
from cs336_sft.records import Example, Problem
from cs336_sft.tokenization import count_targets
from cs336_sft.training.checkpoints import fingerprint_weights, list_checkpoints
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import JSONDict, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Fields that may change when a run is resumed: they change no number of it by more than rounding.
_FREE_FIELDS = {"checkpoint_every", "keep_checkpoints", "progress", "eval_every", "gradient_checkpointing"}


def check_examples(examples: Sequence[Example], model: PreTrainedModel) -> None:
    if not examples:
        raise DataError("there are no training examples", "give at least one")
    context = context_length(model.config)
    vocabulary = model.get_input_embeddings().num_embeddings
    for index, example in enumerate(examples):
        if count_targets([example]) == 0:
            raise DataError(f"training example {index} has no target token", "give it a response, or leave it out")
        if context is not None and len(example) - 1 > context:
            problem = f"training example {index} has {len(example)} tokens, the model's context is {context}"
            raise ContextLengthError(problem, "leave out or shorten longer examples")
        for token in (*example.prompt_ids, *example.response_ids):
            if not 0 <= token < vocabulary:
                problem = f"training example {index} has the id {token}, the vocabulary ends at {vocabulary - 1}"
                raise DataError(problem, "tokenize with the tokenizer that belongs to the model")


def fingerprint_examples(examples: Sequence[Example]) -> str:
    """Compute the SHA-256 of all ids, in order."""
    digest = hashlib.sha256()
    for example in examples:  # the lengths tell where a prompt ends
        digest.update(array("q", (len(example.prompt_ids), len(example.response_ids))))
        digest.update(array("q", example.prompt_ids + example.response_ids))
    return digest.hexdigest()


def fingerprint_problems(problems: Sequence[Problem]) -> str:
    """Compute the SHA-256 of questions and answers, in order."""
    text = json.dumps([(problem.question, problem.answer, problem.final) for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()


def check_identity(
    run: RunDirectory,
    model: torch.nn.Module,
    examples: Sequence[Example],
    config: SFTConfig,
    evaluation: Mapping[str, Any],
) -> JSONDict:
    """Store the identity of a new run, or check that of an existing one.

    Returns the settings that were changed since, of those that may be, as ``{field: [old, new]}``.
    """
    settings = config.to_dict()
    identity = {
        **{field.name: settings[field.name] for field in fields(SFTConfig)},  # not those of a subclass
        "training_examples": fingerprint_examples(examples),
        "n_training_examples": len(examples),
        "starting_weights": starting_weights(run, model),
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **adapter_facts(model),
        **{f"evaluation.{name}": value for name, value in evaluation.items()},
    }
    return run.check_config(identity, free=free_fields(config))


def starting_weights(run: RunDirectory, model: torch.nn.Module) -> str | None:
    """Fingerprint the weights, or name what the run started from if they are its own."""
    weights, path = fingerprint_weights(model), run.path / "config.json"
    stored = read_json(path).get("starting_weights") if path.exists() else weights
    # In a notebook the model in memory is often the one that this very run was training when it was stopped.
    if weights != stored and any(weights == c.weights for c in list_checkpoints(run.checkpoints)):
        return stored
    return weights


def free_fields(config: SFTConfig) -> set[str]:
    """Return the settings that a run may be resumed with other values of."""
    # A run that ran out of memory can go on with smaller ones; the handout averages over them, so their size matters.
    return _FREE_FIELDS | ({"micro_batch_size"} if config.normalization == "tokens" else set())


def set_weights_dtype(model: torch.nn.Module, config: SFTConfig) -> None:
    """Give the trained parameters the type ``config.weights_dtype``, in place."""
    dtype = getattr(torch, config.weights_dtype)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float64:
            parameter.data = parameter.data.to(dtype)


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer as ``save_pretrained`` does, without its progress bar."""
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if bars:
            hf_logging.enable_progress_bar()


def check_saving(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save everything but the weights to a temporary folder, as the run will do."""
    parts = {"configuration": model.config, "tokenizer": tokenizer}
    if getattr(model, "generation_config", None) is not None:
        parts["generation configuration"] = model.generation_config
    with TemporaryDirectory() as folder:
        for name, part in parts.items():
            try:
                part.save_pretrained(folder)
            except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                problem = f"the model's {name} can't be saved: {reason}"
                raise ConfigError(problem, "correct it before training, with save_pretrained") from error


def versions(device: torch.device) -> JSONDict:
    packages: dict[str, str | None] = {}
    for name in ("torch", "transformers", "accelerate", "safetensors", "numpy", "cs336-sft"):
        packages[name] = None
        with suppress(metadata.PackageNotFoundError):  # the course itself, run from a checkout
            packages[name] = metadata.version(name)
    return {
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "python": platform.python_version(),
        "packages": packages,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }
