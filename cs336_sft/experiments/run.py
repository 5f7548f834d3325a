"""One fine-tuning run from its settings: problems, model, training, evaluations, and the test split if asked for.

    outcome = run_sft(make_settings({"train_size": 512, "lr": 1e-4}), "runs/first")

The commands ``sft`` and ``sweep`` are thin layers over this. Beside what ``train_sft`` keeps, the run directory gets
``settings.json`` (last: a run that has it is complete), ``test.json`` and, for ``test="best"``, ``best/``.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile, rmtree
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

from cs336_sft.evaluation.evaluate import evaluate
from cs336_sft.evaluation.validation_loss import reference_loss
from cs336_sft.experiments.profiles import Profile, get_profile, with_model
from cs336_sft.experiments.settings import RunSettings
from cs336_sft.generation.make_sampler import make_sampler
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.grading import get_reward_fn
from cs336_sft.model.loading import load_model_and_tokenizer
from cs336_sft.model.lora import add_adapter, load_quantized, note_base
from cs336_sft.prompts import PromptTemplate, get_template
from cs336_sft.records import Problem
from cs336_sft.tokenization import make_examples, padding_id
from cs336_sft.training import checkpoints
from cs336_sft.training.checks import fingerprint_problems
from cs336_sft.training.loop import TrainingResult, train_sft
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import Record, plain, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunOutcome:
    """What a run gave.

    Attributes:
        result: training and evaluations.
        test: metrics on the test split, with the ``step`` whose weights were measured; None where not asked for.
        overlap: evaluation problems that are among the training problems; more than 0 makes them worthless.
    """

    result: TrainingResult
    test: Record | None
    overlap: int


@dataclass(frozen=True)
class RunData:
    """The problems of a run."""

    training: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]


def load_data(settings: RunSettings) -> RunData:
    """The problems that the settings name. The evaluation problems do not depend on the seeds.

    Raises:
        DataError, ConfigError: a source that can't be read, or fewer problems than asked for.
    """
    profile = get_profile(settings.profile)
    size = settings.train_size
    if size == "full":
        size = None if profile.data == "gsm8k" or settings.data else profile.full_size
    # A file of training problems has no other splits; a folder or a hub name has.
    whole = settings.data if settings.data and not Path(settings.data).is_file() else None
    training = profile.problems("train", size, seed=settings.subset_seed, source=settings.data)
    validation = profile.problems("validation", settings.eval_size, source=settings.eval_data or whole)
    test = profile.problems("test", settings.eval_size, source=whole) if settings.test else []
    return RunData(tuple(training), tuple(validation), tuple(test))


def run_sft(
    settings: RunSettings,
    run_dir: str | Path,
    *,
    base_cache: str | Path | None = None,
    engine: VLLMConfig | None = None,
    on_data: Callable[[RunData], None] | None = None,
    config_changes: Mapping[str, Any] | None = None,
) -> RunOutcome:
    """Fine-tune and evaluate as the settings say; go on with a run that was cut short, and read one that is done.

    Args:
        run_dir: a new directory, or that of the same run.
        base_cache: a folder in which runs share the evaluation of the model before training, which is the same for
            all runs that begin with the same weights and measure the same.
        engine: settings of vLLM, where the settings name it as the sampler; None: a third of the card beside training.
        on_data: called with the problems before anything is trained.
        config_changes: fields of ``SFTConfig`` that are no settings, such as ``progress``.

    Raises:
        CourseError: see ``load_data``, ``load_model_and_tokenizer`` and ``train_sft``.
    """
    profile = with_model(get_profile(settings.profile), settings.model)
    template = get_template(settings.template or profile.template)
    data = load_data(settings)
    if on_data:
        on_data(data)
    run = RunDirectory(run_dir)
    model, tokenizer = load_policy(settings, profile)
    examples = make_examples(data.training, template, tokenizer, append_eos=settings.append_eos)
    # The engine first: it takes its share of what is free on the card, training the rest.
    # Of several processes each generates its share with Hugging Face; an engine is the main one's alone.
    own_sampler = settings.sampler == "hf" or processes.is_main()
    # A run with nothing left to measure needs none: it is only read.
    measured = run.result.exists() and (settings.test is None or (run.path / "test.json").exists())
    with (
        make_sampler(
            settings.sampler,
            model,
            tokenizer,
            source=profile.model_source(),
            batch_size=settings.eval_batch_size,
            vllm=engine or VLLMConfig(gpu_memory_utilization=0.3),
        )
        if own_sampler and not measured
        else nullcontext() as sampler
    ):
        measure = Measure(settings, profile, model, tokenizer, processes.SharedSampler(sampler), template)
        facts = measure.facts(data.validation)
        tracked = _BestWeights(run, model) if settings.test == "best" else None

        def evaluator(step: int) -> Record:
            path = run.generations / f"step-{step:06d}.jsonl"
            if step == 0 and base_cache is not None and processes.world_size() == 1:
                return _cached(Path(base_cache), measure.base_key(facts), path, lambda: measure(data.validation, path))
            metrics = measure(data.validation, path)
            if tracked is not None and step > 0 and processes.is_main():
                tracked.offer(step, metrics["accuracy"])
            return metrics

        result = train_sft(
            model,
            tokenizer,
            examples,
            replace(settings.sft, **(config_changes or {})),
            run.path,
            evaluator=evaluator,
            evaluation=facts,
        )
        test = None
        if not result.interrupted:
            if settings.adapter is not None and processes.is_main():
                note_base(run.final, profile.model, settings.adapter)
            test = _test(run, settings, result, data, measure, tracked)
            # What the run took from the device, for comparisons of memory; 0 on a CPU.
            peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
            trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            about = {"settings": settings.to_flat(), "trained_parameters": trained, "peak_memory_bytes": peak}
            if processes.is_main():
                write_json(run.path / "settings.json", about)
    return RunOutcome(result, test, overlap(data.training, data.validation))


def is_complete(run_dir: str | Path, settings: RunSettings) -> bool:
    """Whether the directory holds this very run, finished, so that nothing needs to be loaded to say so.

    >>> is_complete("no-such-run", RunSettings())
    False
    """
    path = Path(run_dir) / "settings.json"
    if not path.exists() or not (Path(run_dir) / "result.json").exists():
        return False
    return read_json(path)["settings"] == json.loads(json.dumps(settings.to_flat()))


def drop_weights(run_dir: str | Path) -> None:
    """Remove checkpoints and final model of a finished run: a sweep over a large model would fill the disk."""
    run = RunDirectory(run_dir)
    for folder in (run.checkpoints, run.final, run.path / "best"):
        if folder.exists():
            rmtree(folder)


def free_memory() -> None:
    """Give back what the last run held, before the next begins in the same process; its peak is forgotten too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def load_policy(settings: RunSettings, profile: Profile) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that a run starts from, with a fresh adapter where the settings ask for one."""
    source = profile.model_source()
    if settings.adapter is None:
        return load_model_and_tokenizer(source)
    dtype = _frozen_dtype(settings)
    if settings.adapter.quantize:
        model, tokenizer = load_quantized(source, compute_dtype=dtype)
    else:
        model, tokenizer = load_model_and_tokenizer(source, dtype=dtype)
    return add_adapter(model, settings.adapter, seed=settings.sft.seed), tokenizer


def _frozen_dtype(settings: RunSettings) -> torch.dtype:
    """Weights that are not trained need no more digits than the products they go into."""
    return torch.bfloat16 if settings.sft.mixed_precision == "bf16" else torch.float32


class Measure:
    """Generates answers with the model as it is now, keeps them, and returns their metrics and the references' loss."""

    def __init__(
        self,
        settings: RunSettings,
        profile: Profile,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        sampler: Sampler,
        template: PromptTemplate,
    ) -> None:
        self.settings, self.profile, self.model, self.template = settings, profile, model, template
        self.tokenizer, self.sampler = tokenizer, sampler
        self.sampling = SamplingConfig(max_new_tokens=settings.limit, stop=template.stop, record_entropy=True)
        self.reward_fn = get_reward_fn(template.name)

    def __call__(self, problems: Sequence[Problem], path: Path) -> Record:
        cuda = self.model.device.type == "cuda" and self.settings.sft.mixed_precision == "bf16"
        # One autocast around the whole generation casts each trained weight once, not once a token.
        with torch.autocast("cuda", dtype=torch.bfloat16) if cuda else nullcontext():
            self.sampler.update_weights(self.model)
            evaluation = evaluate(self.sampler, problems, self.template, self.reward_fn, self.sampling, path=path)
            # The loss on the reference answers shows overfitting before accuracy does, and costs one forward pass.
            examples = make_examples(problems, self.template, self.tokenizer)
            loss = reference_loss(self.model, examples, padding_id(self.tokenizer))
        return evaluation.metrics.as_dict() | {"reference_loss": loss}

    def facts(self, problems: Sequence[Problem]) -> Record:
        """What is measured with: part of the run's identity."""
        return {
            "split": "validation",
            "n_problems": len(problems),
            "problems": fingerprint_problems(problems),
            "template": self.template.name,
            "limit": self.settings.limit,
            "sampler": self.settings.sampler,
        }

    def base_key(self, facts: Record) -> str:
        """A name for the evaluation before training: equal for runs that begin with the same model."""
        settings = self.settings
        # A new LoRA adapter changes nothing, but 4-bit weights are another model.
        parts = [
            str(self.profile.model),
            settings.method == "qlora",
            "float32" if settings.adapter is None else str(_frozen_dtype(settings)),
            settings.sft.weights_dtype,
            settings.sft.mixed_precision,
            settings.eval_batch_size,
            self.model.device.type,
            facts,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def overlap(training: Sequence[Problem], evaluation: Sequence[Problem]) -> int:
    """How many evaluation problems the model is trained on.

    >>> overlap([Problem("2 + 3?", "#### 5", "5")], [Problem("2 + 3?", "#### 5", "5"), Problem("1?", "#### 1", "1")])
    1
    """
    seen = {problem.question for problem in training}
    return sum(problem.question in seen for problem in evaluation)


class _BestWeights:
    """The weights of the best evaluation so far, on disk with its step and value, so that a resumed run knows them."""

    def __init__(self, run: RunDirectory, model: torch.nn.Module) -> None:
        self.folder, self.model = run.path / "best", model

    def offer(self, step: int, value: float) -> None:
        """Keep the model as it is now if it is better than what is kept, or was measured no later and is as good."""
        kept = self.read()
        # After a crash steps are made again: what was kept then for a later step must not win a draw.
        if kept is None or value > kept["value"] or (value == kept["value"] and step <= kept["step"]):
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            checkpoints.replace_folder(self.folder, lambda folder: self._write(folder, step, value))

    def _write(self, folder: Path, step: int, value: float) -> None:
        checkpoints.save_trained(self.model, folder / "model.safetensors")
        write_json(folder / "best.json", {"step": step, "value": value})

    def read(self) -> Record | None:
        path = self.folder / "best.json"
        return read_json(path) if path.exists() else None

    def load(self) -> int:
        """Put the kept weights into the model; returns their step."""
        checkpoints.load_trained(self.folder / "model.safetensors", self.model)
        return self.read()["step"]


def _test(
    run: RunDirectory,
    settings: RunSettings,
    result: TrainingResult,
    data: RunData,
    measure: Measure,
    tracked: _BestWeights | None,
) -> Record | None:
    """The test split, once; afterwards the model has the weights that were measured."""
    if settings.test is None:
        return None
    path = run.path / "test.json"
    if not path.exists():
        step = tracked.load() if tracked else result.steps
        metrics = plain(measure(data.test, run.generations / "test.jsonl"))
        record = {"step": step, "problems": fingerprint_problems(data.test), **metrics}
        if processes.is_main():
            write_json(path, record)
        return record
    return read_json(path)


def _cached(folder: Path, key: str, path: Path, measure: Callable[[], Record]) -> Record:
    """The metrics stored under ``key``, with the generations copied to ``path``; measured where they are not there."""
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
