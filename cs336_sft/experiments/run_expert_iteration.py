"""Run expert iteration from one configuration: data, model, sampler, first fine-tuning, rounds and test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from cs336_sft.errors import ConfigError
from cs336_sft.experiments.config import ExpertIterationRunConfig
from cs336_sft.experiments.profiles import get_profile
from cs336_sft.experiments.run import RunData, evaluation_problems, open_sampler
from cs336_sft.expert_iteration.config import ExpertIterationConfig
from cs336_sft.expert_iteration.loop import expert_iteration
from cs336_sft.expert_iteration.run_folder import ExpertIterationResult, load_expert_iteration
from cs336_sft.generation.sampler import Sampler
from cs336_sft.generation.vllm_backend.config import VLLMConfig
from cs336_sft.model.loading import load_model_and_tokenizer
from cs336_sft.prompts import get_template
from cs336_sft.tokenization import make_examples
from cs336_sft.training.loop import train_sft
from cs336_sft.utils.distributed import own_device
from cs336_sft.utils.files import JSONDict
from cs336_sft.utils.validation import narrow


def load_ei_data(config: ExpertIterationRunConfig) -> RunData:
    """Load the problems of the first SFT, of the pool, and to evaluate."""
    n = config.sft_size + (config.pool_size or config.questions_per_round)
    profile = get_profile(config.profile)
    training = profile.problems("train", config.skip_train + n, seed=config.subset_seed, source=config.data)
    validation, _ = evaluation_problems(replace(config, test_checkpoint=None))
    _, test = evaluation_problems(replace(config, eval_size=config.test_size or config.eval_size))
    return RunData(tuple(training[config.skip_train :]), validation, test)


def run_expert_iteration(
    config: ExpertIterationRunConfig,
    run_dir: str | Path,
    *,
    sampler: Sampler | None = None,
    engine: VLLMConfig | None = None,
    cache_dir: str | Path | None = None,
    report: Callable[[JSONDict], Any] | None = None,
    on_data: Callable[[RunData], None] | None = None,
) -> ExpertIterationResult:
    """Run expert iteration, or resume it, or return a finished run's result.

    With a first SFT, ``run_dir`` holds its folder ``start`` and the folder ``ei`` of the rounds. ``sampler`` is used
    instead of a new one and left open; ``engine`` holds the settings of a new vLLM engine. Runs that share
    ``cache_dir`` share rollouts. ``report`` receives each round's record, ``on_data`` the problems before training.

    Raises CourseError: see ``Profile.problems``, ``load_model_and_tokenizer``, ``train_sft`` and ``expert_iteration``.
    """
    source = config.model_source()
    template, data, run_dir = get_template(config.template), load_ei_data(config), Path(run_dir)
    if on_data:
        on_data(data)
    model, tokenizer = load_model_and_tokenizer(source, device=str(own_device()))
    given = None if sampler is None else nullcontext(sampler)
    with given or open_sampler(config, model, tokenizer, source, engine) as own_sampler:
        if config.sft_size:
            examples = make_examples(data.training[: config.sft_size], template, tokenizer)
            start = train_sft(model, tokenizer, examples, config.start_config(), run_dir / "start")
            if start.interrupted:
                return ExpertIterationResult(run_dir, (), None, interrupted=True)
        return expert_iteration(
            model,
            tokenizer,
            data.training[config.sft_size :],
            template,
            narrow(config, ExpertIterationConfig),
            run_dir / "ei" if config.sft_size else run_dir,
            sampler=own_sampler,
            validation=data.validation,
            test=data.test,
            cache_dir=cache_dir,
            report=report,
        )


def samples_of(run_dir: str | Path, rounds: int) -> tuple[int, ...]:
    """Return how many samples each round of another run trained on."""
    counts = tuple(record["kept_n"] for record in load_expert_iteration(run_dir).rounds if record["round"] > 0)
    if len(counts) < rounds:
        raise ConfigError(f"{run_dir} has {len(counts)} finished rounds, not {rounds}", "finish that run first")
    return counts[:rounds]
