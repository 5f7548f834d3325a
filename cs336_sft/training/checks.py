"""Checks before a run starts, so that it fails in its first second and not in its last hour."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ContextLengthError, DataError
from cs336_sft.model.lora import adapter_facts
from cs336_sft.model.shape import model_limits
from cs336_sft.records import Example, Problem
from cs336_sft.tokenization import count_targets
from cs336_sft.training import checkpoints
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import JSONDict, read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Fields that may change when a run is resumed: they change no number of it by more than rounding. A run that ran out of
# memory can go on with smaller microbatches.
_FREE_FIELDS = {"checkpoint_every", "keep_checkpoints", "progress", "eval_every", "gradient_checkpointing"}


def check_examples(examples: Sequence[Example], model: PreTrainedModel) -> None:
    """Check that the model can be trained on every example."""
    if not examples:
        raise DataError("there are no training examples", "give at least one")
    context = model_limits(model.config).context
    vocabulary = model.get_input_embeddings().num_embeddings
    for index, example in enumerate(examples):
        if count_targets([example]) == 0:
            raise DataError(f"training example {index} has no target token", "give it a response, or leave it out")
        if context is not None and len(example) - 1 > context:
            problem = f"training example {index} has {len(example)} tokens, the model's context is {context}"
            raise ContextLengthError(problem, "leave out or shorten longer examples")
        unknown = [token for token in (*example.prompt_ids, *example.response_ids) if not 0 <= token < vocabulary]
        if unknown:
            problem = f"training example {index} has the id {unknown[0]}, the vocabulary ends at {vocabulary - 1}"
            raise DataError(problem, "tokenize with the tokenizer that belongs to the model")


def fingerprint_examples(examples: Sequence[Example]) -> str:
    """Compute the SHA-256 of all ids, in order.

    >>> a, b = Example((1, 2), (3,)), Example((1,), (2, 3))
    >>> fingerprint_examples([a]) == fingerprint_examples([b])
    False
    """
    digest = hashlib.sha256()
    for example in examples:
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
    weights = checkpoints.fingerprint_weights(model)
    path = run.path / "config.json"
    stored = read_json(path).get("starting_weights") if path.exists() else weights
    # In a notebook the model in memory is often the one that this very run was training when it was stopped.
    if weights != stored and any(weights == c.weights for c in checkpoints.list_checkpoints(run.checkpoints)):
        weights = stored
    settings = config.to_dict()
    identity = {
        **{field.name: settings[field.name] for field in fields(SFTConfig)},  # not those of a subclass
        "training_examples": fingerprint_examples(examples),
        "n_training_examples": len(examples),
        "starting_weights": weights,
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **adapter_facts(model),
        **{f"evaluation.{name}": value for name, value in evaluation.items()},
    }
    return run.check_config(identity, free=free_fields(config))


def free_fields(config: SFTConfig) -> set[str]:
    """Return the settings that a run may be resumed with other values of."""
    # The handout averages over microbatches, so there their size matters.
    return _FREE_FIELDS | ({"micro_batch_size"} if config.normalization == "tokens" else set())
