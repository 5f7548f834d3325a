"""What is looked at before a run starts, so that it fails in its first second and not in its last hour."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from cs336_sft.errors import ConfigError, ContextLengthError, DataError
from cs336_sft.model.lora import adapter_facts
from cs336_sft.records import Example, Problem
from cs336_sft.tokenization import count_targets
from cs336_sft.training import checkpoints
from cs336_sft.training.config import SFTConfig
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils.files import read_json

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Fields that a run may be resumed with another value of: they do not change what it computes.
_FREE_FIELDS = ("checkpoint_every", "keep_checkpoints", "trackers", "progress")
_TRACKER_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def check_examples(examples: Sequence[Example], model: PreTrainedModel) -> None:
    """Every example must have something to learn, fit into the model, and use its vocabulary.

    Raises:
        DataError: there are no examples, or one has no target token or an id that the model does not know.
        ContextLengthError: one is longer than the model's context.
    """
    if not examples:
        raise DataError("there are no training examples", "give at least one")
    context = getattr(model.config, "max_position_embeddings", None)
    vocabulary = model.get_input_embeddings().num_embeddings
    for index, example in enumerate(examples):
        if count_targets([example]) == 0:
            raise DataError(f"training example {index} has no target token", "give it a response, or leave it out")
        if context is not None and len(example) - 1 > context:
            raise ContextLengthError(
                f"training example {index} has {len(example)} tokens, the model's context is {context}",
                "leave out or shorten longer examples",
            )
        highest, lowest = max(map(max, filter(None, (example.prompt_ids, example.response_ids)))), 0
        lowest = min(map(min, filter(None, (example.prompt_ids, example.response_ids))))
        if lowest < 0 or highest >= vocabulary:
            raise DataError(
                f"training example {index} has the id {lowest if lowest < 0 else highest}, "
                f"the model's vocabulary ends at {vocabulary - 1}",
                "tokenize with the tokenizer that belongs to the model",
            )


def check_trackers(trackers: Sequence[str]) -> None:
    """accelerate leaves out a tracker whose package is missing without a word.

    Raises:
        ConfigError: the package of a tracker is not installed.
    """
    for name in trackers:
        if not any(find_spec(package) for package in _TRACKER_PACKAGES[name]):
            raise ConfigError(
                f"SFTConfig.trackers names {name!r}, which is not installed", f"pip install 'cs336-sft[{name}]'"
            )


def fingerprint_examples(examples: Sequence[Example]) -> str:
    """SHA-256 over all ids, in order.

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
    """SHA-256 over questions and final answers, in order: the same problems by any path are the same.

    >>> a, b = Problem("2 + 3?", "#### 5", "5"), Problem("2 + 4?", "#### 6", "6")
    >>> fingerprint_problems([a, b]) == fingerprint_problems([b, a])
    False
    """
    text = json.dumps([(problem.question, problem.final) for problem in problems])
    return hashlib.sha256(text.encode()).hexdigest()


def check_identity(
    run: RunDirectory,
    model: torch.nn.Module,
    examples: Sequence[Example],
    config: SFTConfig,
    evaluation: Mapping[str, Any],
    optimizer_from: checkpoints.Checkpoint | None = None,
) -> None:
    """A new run notes what it is made from and how it is evaluated; an existing one must agree.

    Raises:
        RunDirectoryError: it does not; the message names the fields.
    """
    weights = checkpoints.fingerprint_weights(model)
    path = run.path / "config.json"
    stored = read_json(path).get("starting_weights") if path.exists() else weights
    # In a notebook the model in memory is often the one that this very run was training when it was stopped.
    if weights != stored and any(weights == c.weights for c in checkpoints.list_checkpoints(run.checkpoints)):
        weights = stored
    identity = {
        **config.to_dict(),
        "training_examples": fingerprint_examples(examples),
        "n_training_examples": len(examples),
        "starting_weights": weights,
        "model": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **adapter_facts(model),
        # Flat, so that an error names the one setting that differs.
        **{f"evaluation.{name}": value for name, value in evaluation.items()},
    }
    if optimizer_from is not None:
        identity["optimizer_from"] = optimizer_from.weights
    run.check_config(identity, free=_FREE_FIELDS)
