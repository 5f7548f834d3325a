"""Evaluate a model: prompts -> generations -> rewards -> metrics, with every generation kept on disk.

Nothing that grading does can lose a generation: each reference is graded once before anything is generated, and the
raw generations are on disk before the first one is graded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cs336_sft.errors import DataError, EngineDiedError, RewardFunctionError
from cs336_sft.evaluation.generations_file import write_generations, write_ungraded
from cs336_sft.evaluation.metrics import Metrics, compute_metrics
from cs336_sft.generation.sampler import Sampler, SamplingConfig
from cs336_sft.grading import RewardFn, lenient_reward_fn
from cs336_sft.prompts import PromptTemplate
from cs336_sft.records import Generation, Graded, Problem
from cs336_sft.utils.distributed import is_main

LenientFn = Callable[[str, str], float]
Generations = Sequence[Sequence[Generation | None]]  # a prompt's samples; None where one was not finished


@dataclass(frozen=True)
class Evaluation:
    """Metrics, and the graded generations that they come from (problem by problem, then sample by sample)."""

    metrics: Metrics
    graded: tuple[Graded, ...]


def evaluate(
    sampler: Sampler,
    problems: Sequence[Problem],
    template: PromptTemplate,
    reward_fn: RewardFn,
    sampling: SamplingConfig,
    *,
    lenient_fn: LenientFn | None = lenient_reward_fn,
    path: str | Path | None = None,
) -> Evaluation:
    """Sample `sampling.num_samples` answers to each problem and grade them.

    The main process writes the generations to `path` (JSON Lines).
    Raises DataError: no problems, or a reference that can't be graded; nothing was generated.
    Raises EngineDiedError: the engine failed; finished generations are in `*.partial.jsonl`.
    Raises RewardFunctionError: a reward function failed; the generations are in `<path>.ungraded`.

    >>> from cs336_sft.grading import gsm8k_reward_fn
    >>> from cs336_sft.prompts import get_template
    >>> class Always5:
    ...     def generate(self, prompts, sampling):
    ...         return [[Generation(prompt, (5, 0), " 5\\n#### 5", "stop")] for prompt in prompts]
    >>> problems = [Problem("2 + 3?", "#### 5", "5"), Problem("2 + 4?", "#### 6", "6")]
    >>> evaluate(Always5(), problems, get_template("gsm8k"), gsm8k_reward_fn, SamplingConfig()).metrics.accuracy
    0.5
    """
    if not problems:
        raise DataError("there are no problems to evaluate", "give at least one")
    prompts = [template.prompt(problem) for problem in problems]
    return evaluate_generations(lambda: sampler.generate(prompts, sampling), problems, reward_fn, lenient_fn, path)


def evaluate_generations(
    generate: Callable[[], Generations],
    problems: Sequence[Problem],
    reward_fn: RewardFn,
    lenient_fn: LenientFn | None = lenient_reward_fn,
    path: str | Path | None = None,
) -> Evaluation:
    """Check the references, generate and grade: the part of `evaluate` after prompts.

    A `generate` that fails carries what it finished in the attribute `generations` of its error.
    """
    for problem in {problem.final: problem for problem in problems}.values():
        try:
            grade_generation(problem, Generation("", (), "", "stop"), reward_fn, lenient_fn)
        except Exception as error:  # reward functions are the caller's
            raise DataError(
                f"an empty response and the reference {problem.final[:80]!r} of {problem.id or 'a problem'} "
                f"can't be graded: {type(error).__name__}: {error}",
                "correct the reference, or give reward functions that take both (lenient_fn=None: no lenient one)",
            ) from error
    try:
        generations = generate()
    except (EngineDiedError, KeyboardInterrupt) as error:
        if path is not None and any(map(any, getattr(error, "generations", ()))):
            partial = Path(path).with_suffix(".partial.jsonl")
            _grade_and_write(problems, error.generations, reward_fn, lenient_fn, partial)
            if isinstance(error, EngineDiedError):
                error.add_remedy(f"they are kept in {partial}")
        raise
    graded = _grade_and_write(problems, generations, reward_fn, lenient_fn, path if is_main() else None)
    return Evaluation(compute_metrics(graded), graded)


def grade_generation(
    problem: Problem, generation: Generation, reward_fn: RewardFn, lenient_fn: LenientFn | None = lenient_reward_fn
) -> Graded:
    """Grade one generation. Without `lenient_fn` the strict reward is the lenient one."""
    rewards = reward_fn(generation.text, problem.final)
    return Graded(
        problem=problem,
        generation=generation,
        format_reward=float(rewards["format_reward"]),
        answer_reward=float(rewards["answer_reward"]),
        reward=float(rewards["reward"]),
        lenient=float(lenient_fn(generation.text, problem.final) if lenient_fn else rewards["reward"]),
    )


def _grade_and_write(
    problems: Sequence[Problem],
    generations: Generations,
    reward_fn: RewardFn,
    lenient_fn: LenientFn | None,
    path: str | Path | None,
) -> tuple[Graded, ...]:
    """Write the generations, grade them, and replace that file by the graded one."""
    pairs = [
        (problem, generation)
        for problem, samples in zip(problems, generations, strict=True)
        for generation in samples
        if generation is not None
    ]
    raw = None if path is None else Path(f"{path}.ungraded")
    if raw is not None:
        write_ungraded(raw, pairs)
    graded = []
    for problem, generation in pairs:
        try:
            graded.append(grade_generation(problem, generation, reward_fn, lenient_fn))
        except Exception as error:  # reward functions are the caller's
            raise RewardFunctionError(
                f"a reward function failed on sample {generation.sample} of {problem.id or 'a problem'} "
                f"({type(error).__name__}: {error})",
                f"correct the function and grade again what is in {raw}" if raw else "see the error's `ungraded`",
                pairs,
            ) from error
    if path is not None:
        write_generations(path, graded)
        raw.unlink()
    return tuple(graded)
