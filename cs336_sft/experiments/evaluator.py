"""The evaluation of a run's model: generations, metrics and validation loss, kept in the run directory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.evaluation.response_scores import validation_loss
from cs336_sft.experiments.config import RunConfig
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.grading import get_reward_fn
from cs336_sft.prompts import get_template
from cs336_sft.records import Example, Problem
from cs336_sft.tokenization import make_examples
from cs336_sft.training.setup import fingerprint_problems
from cs336_sft.utils.files import JSONDict, plain, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Evaluator:
    """Measures the model as it is now: generates answers, keeps them, and computes metrics and the validation loss."""

    def __init__(
        self,
        config: RunConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampler: Sampler,
        validation: Sequence[Problem],
    ) -> None:
        self.config, self.model, self.tokenizer, self.sampler = config, model, tokenizer, sampler
        self.validation, self.template = validation, get_template(config.template)
        self.validation_examples = make_examples(validation, self.template, tokenizer)
        length, stop = config.max_new_tokens, self.template.stop
        self.sampling = SamplingConfig(max_new_tokens=length, stop=stop, record_entropy=True)

    def validate(self, path: Path) -> JSONDict:
        """Evaluate on the validation problems and keep the generations."""
        return self.measure(self.validation, self.validation_examples, path)

    def measure(self, problems: Sequence[Problem], examples: Sequence[Example], path: Path) -> JSONDict:
        """Return metrics of generated answers, and the loss on the data's answers."""
        bf16 = self.model.device.type == "cuda" and self.config.mixed_precision == "bf16"
        # One autocast around the whole generation casts each trained weight once, not once a token.
        with torch.autocast("cuda", dtype=torch.bfloat16) if bf16 else nullcontext():
            self.sampler.update_weights(self.model)
            reward_fn = get_reward_fn(self.template.style)
            evaluation = evaluate(self.sampler, problems, self.template, reward_fn, self.sampling, path=path)
            # The loss shows overfitting before accuracy does, and costs one forward pass.
            loss = validation_loss(self.model, examples)
        return evaluation.metrics.as_dict() | {"validation_loss": loss}

    def identity(self) -> JSONDict:
        """Return how the run is evaluated, stored to detect a mismatch on resume."""
        return {
            "split": "validation",
            "n_problems": len(self.validation),
            "problems": fingerprint_problems(self.validation),
            "template": self.template.name,
            "template_fingerprint": self.template.fingerprint,
            "max_new_tokens": self.config.max_new_tokens,
            "sampler": self.config.sampler,
        }

    def baseline_key(self, model_fingerprint: str) -> str:
        """Return a name for the evaluation before training, by weights."""
        config = self.config
        # A new LoRA adapter changes nothing, but 4-bit weights are another model.
        parts = [model_fingerprint, config.method == "qlora", config.weights_dtype, config.mixed_precision]
        parts += [config.gen_batch_size, self.model.device.type, self.identity()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def cached_baseline(folder: Path, key: str, path: Path, measure: Callable[[], JSONDict]) -> JSONDict:
    """Return the metrics stored under ``key``, or measure and store them once."""
    folder.mkdir(parents=True, exist_ok=True)
    stored, generations = folder / f"{key}.json", folder / f"{key}.jsonl"
    with FileLock(folder / f"{key}.lock"):
        if not stored.exists():
            metrics = plain(measure())
            copyfile(path, generations)
            write_json(stored, metrics)
            return metrics
    copyfile(generations, path)
    return read_json(stored)


def fingerprint_model(source: str | Path) -> str:
    """Hash a model's weight files, or return a hub name that is not cached yet.

    >>> fingerprint_model("no/such-model")
    'no/such-model'
    """
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(source), "config.json")
        if not isinstance(cached, str):
            return str(source)
        folder = Path(cached).parent
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    return _hash_files(tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=8)
def _hash_files(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash names and contents. A new size or time of change asks for a new hash."""
    digest = hashlib.sha256()
    for path, _, _ in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
