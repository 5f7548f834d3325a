"""One fine-tuning run from its configuration: problems, model, training, evaluations, and the test split if asked for.

Besides what ``train_sft`` keeps, the run directory gets ``settings.json`` (last: a run that has it is complete),
``test.json`` and, for ``test_checkpoint="best"``, the folder ``best``.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

import torch

from cs336_sft.experiments.config import RunConfig, RunFields
from cs336_sft.experiments.evaluator import Evaluator, cached_baseline, fingerprint_model
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.generation.make_sampler import make_sampler
from cs336_sft.generation.sampler import Sampler, SharedSampler
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.model.loading import load_model_and_tokenizer, load_quantized
from cs336_sft.model.lora import add_adapter, save_base_name
from cs336_sft.prompts import get_template
from cs336_sft.records import Problem
from cs336_sft.tokenization import make_examples
from cs336_sft.training import checkpoints
from cs336_sft.training.loop import TrainingResult, train_sft
from cs336_sft.training.run_directory import RunDirectory
from cs336_sft.training.setup import fingerprint_problems
from cs336_sft.utils import distributed as processes
from cs336_sft.utils.files import JSONDict, plain, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunOutcome:
    """Training and evaluations of a run, and its test metrics with the ``step`` whose weights were measured."""

    result: TrainingResult
    test: JSONDict | None


@dataclass(frozen=True)
class RunData:
    training: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]


def load_data(config: RunConfig) -> RunData:
    """Load the problems of a run."""
    profile, size = get_profile(config.profile), config.train_size
    if size == "full":
        size = None if config.data else profile.full_size
    training = profile.problems("train", size, seed=config.subset_seed, source=config.data)
    return RunData(tuple(training), *evaluation_problems(config))


def evaluation_problems(config: RunFields) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """Load the validation problems, and test problems if a test is asked for."""
    profile = get_profile(config.profile)
    # A file of training problems has no other splits; a folder or a hub name has.
    whole = config.data if config.data and not Path(config.data).is_file() else None
    validation = profile.problems("validation", config.eval_size, source=config.eval_data or whole)
    test = profile.problems("test", config.eval_size, source=whole) if config.test_checkpoint else []
    return tuple(validation), tuple(test)


def run_sft(
    config: RunConfig,
    run_dir: str | Path,
    *,
    base_cache: str | Path | None = None,
    engine: VLLMConfig | None = None,
    sampler: Sampler | None = None,
    keep_weights: bool = True,
    on_data: Callable[[RunData], None] | None = None,
) -> RunOutcome:
    """Fine-tune and evaluate, or resume or read an existing run.

    Args:
        base_cache: a folder in which runs that begin with equal weights share their first evaluation.
        engine, sampler: settings of a new vLLM engine (None: 0.3 of the memory), or a sampler to use and leave open.
        keep_weights: False writes a checkpoint only when the run is interrupted, and no final model.
        on_data: called with the problems before training.

    Raises CourseError: see ``Profile.problems``, ``load_model_and_tokenizer`` and ``train_sft``.
    """
    data, source, run = load_data(config), config.model_source(), RunDirectory(run_dir)
    if on_data:
        on_data(data)
    model, tokenizer = load_policy(config, source)
    examples = make_examples(data.training, get_template(config.template), tokenizer, append_eos=config.append_eos)
    # A run with nothing left to measure needs no sampler: it is only read.
    measured = run.result.exists() and (config.test_checkpoint is None or (run.path / "test.json").exists())
    given = nullcontext(sampler) if sampler is not None or measured else None
    with given or open_sampler(config, model, tokenizer, source, engine) as opened_sampler:
        evaluator = Evaluator(config, model, tokenizer, SharedSampler(opened_sampler), data.validation)
        best = BestWeights(run.path / "best", model) if config.test_checkpoint == "best" else None

        def validate(step: int) -> JSONDict:
            path = run.generations / f"step-{step:06d}.jsonl"
            if step == 0 and base_cache is not None and processes.world_size() == 1:
                key = evaluator.baseline_key(fingerprint_model(source))
                metrics = cached_baseline(Path(base_cache), key, path, lambda: evaluator.validate(path))
            else:
                metrics = evaluator.validate(path)
            if best is not None and processes.is_main():
                best.offer(step, metrics["accuracy"])
            return metrics

        # The test of the last weights may have to be repeated, so until then they are kept.
        keep_weights = keep_weights or config.test_checkpoint == "last"
        evaluation = {"evaluator": validate, "evaluation": evaluator.identity()}
        result = train_sft(
            model, tokenizer, examples, config.training(), run.path, keep_weights=keep_weights, **evaluation
        )
        test = None
        if not result.interrupted:
            if config.adapter is not None and keep_weights and processes.is_main():
                save_base_name(run.final, config.model or get_profile(config.profile).model, config.adapter)
            if config.test_checkpoint is not None:
                test = _test(run, data.test, result.steps, evaluator, best)
            if processes.is_main():
                _save_settings(run, config, source, model)
    return RunOutcome(result, test)


class BestWeights:
    """Keeps the trained weights of the best evaluation so far.

    They are on disk, so that a resumed run knows them. ``best.json`` names their file: it is replaced when that is
    complete, and only then is the older one removed.
    """

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        self.folder, self.model = folder, model

    def offer(self, step: int, value: float) -> None:
        """Keep the present weights if they are better, or as good and no later."""
        kept = self.read()
        # After a crash steps are repeated: what was kept for a later step must not win a tie.
        if kept is not None and (value, -step) < (kept["value"], -kept["step"]):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = self.folder / f"step-{step:08d}.safetensors"
        temporary = weights.with_suffix(".tmp")
        checkpoints.save_trained(self.model, temporary)
        os.replace(temporary, weights)
        write_json(self.folder / "best.json", {"step": step, "value": value, "weights": weights.name})
        for other in self.folder.glob("step-*"):
            if other != weights:
                other.unlink()

    def read(self) -> JSONDict | None:
        path = self.folder / "best.json"
        return read_json(path) if path.exists() else None

    def load(self) -> int:
        """Put the kept weights into the model and return their step."""
        kept = self.read()
        checkpoints.load_trained(self.folder / kept["weights"], self.model)
        return kept["step"]


def open_sampler(
    config: RunFields,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str | Path,
    engine: VLLMConfig | None,
) -> AbstractContextManager[Sampler | None]:
    """Open the sampler of this process.

    With several processes each samples its part with Hugging Face; only the main one has an engine. Open it before
    training: vLLM reserves its part of the free GPU memory (``engine`` None: 0.3 of it).
    """
    if config.sampler == "vllm" and not processes.is_main():
        return nullcontext()
    engine = engine or VLLMConfig(gpu_memory_utilization=0.3)
    return make_sampler(config.sampler, model, tokenizer, source=source, batch_size=config.gen_batch_size, vllm=engine)


def _test(
    run: RunDirectory, problems: Sequence[Problem], step: int, evaluator: Evaluator, best: BestWeights | None
) -> JSONDict:
    """Measure the test split once, with the weights of ``step`` or with the best ones."""
    path = run.path / "test.json"
    if path.exists():
        return read_json(path)
    if best:
        step = best.load()
    examples = make_examples(problems, evaluator.template, evaluator.tokenizer)
    metrics = plain(evaluator.measure(problems, examples, run.generations / "test.jsonl"))
    record = {"step": step, "problems": fingerprint_problems(problems), **metrics}
    if processes.is_main():
        write_json(path, record)
    return record


def _save_settings(run: RunDirectory, config: RunConfig, source: str | Path, model: torch.nn.Module) -> None:
    """Write ``settings.json``, which marks the run as complete."""
    path = run.path / "settings.json"
    stored = read_json(path) if path.exists() else {}
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0  # 0 on a CPU
    content = {
        "settings": config.settings(),
        "model": fingerprint_model(source),
        "trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "peak_memory_bytes": max(peak, stored.get("peak_memory_bytes", 0)),
    }
    if content != stored:
        write_json(path, content)


def is_complete(run_dir: str | Path, config: RunConfig) -> bool:
    """Return True if the directory holds this run, finished, from equal weights."""
    path = Path(run_dir) / "settings.json"
    if not path.exists() or not (Path(run_dir) / "result.json").exists():
        return False
    stored = read_json(path)
    same = stored["settings"] == json.loads(json.dumps(config.settings()))
    return same and stored.get("model") == fingerprint_model(config.model_source())


def drop_weights(run_dir: str | Path) -> None:
    """Remove checkpoints and models of a finished run, to spare the disk."""
    run = RunDirectory(run_dir)
    for folder in (run.checkpoints, run.final, run.path / "best"):
        if folder.exists():
            rmtree(folder)


def free_memory() -> None:
    """Release the memory of the last run in this process, and reset its peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def load_policy(config: RunConfig, source: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model that a run starts from, with a fresh adapter if it needs one."""
    if config.adapter is None:
        return load_model_and_tokenizer(source)
    # Frozen weights use the compute dtype.
    dtype = torch.bfloat16 if config.mixed_precision == "bf16" else torch.float32
    if config.method == "qlora":
        model, tokenizer = load_quantized(source, compute_dtype=dtype)
    else:
        model, tokenizer = load_model_and_tokenizer(source, dtype=dtype)
    return add_adapter(model, config.adapter, seed=config.seed), tokenizer
